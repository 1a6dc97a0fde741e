"""How each precision stores its matrices and multiplies by them: the only place where the graphs differ."""

import re
from typing import Protocol

import numpy as np
from onnx import TensorProto

from .calibrate import Calibration
from .checkpoint import Linear
from .quantize import BLOCK, blocks, int8_columns, int8_rows
from .weights import WeightFile

# Matches the name of no matrix product.
NOTHING = re.compile(r"(?!)")
# gelu(x) is never below -0.17: after it, 16 of the 256 steps hold all that is negative.
GELU_ZERO_POINT = 16
GELU_LEAST = 0.17
# A row of zeros has no scale; any positive one gives zeros back.
LEAST_SCALE = 1e-30


class Precision(Protocol):
    """What the graph writer asks of a precision."""

    name: str

    def word_embeddings(self, g, table: np.ndarray, ids: str) -> str:
        """float32 [tokens, hidden] of ids [tokens]."""

    def shared_constant(self, g, name: str, array: np.ndarray) -> str:
        """An initializer of the embeddings."""

    def linear(self, g, x: str, linears: list[Linear], name: str, rows: str, source: str) -> list[str]:
        """x [rows, in] times each weight, biases left out: one [rows, out] each.

        `rows` names the shape [rows]; `source` says what x comes out of: norm, attention or gelu.
        """


class Fp32:
    """The reference that the quantized graphs are measured against."""

    name = "fp32"

    def __init__(self):
        # What each product reads, for calibration.
        self.inputs_of = {}

    def word_embeddings(self, g, table, ids):
        return g.node("Gather", [g.constant("word_embeddings", table), ids], "words")

    def shared_constant(self, g, name, array):
        return g.constant(name, array)

    def linear(self, g, x, linears, name, rows, source):
        self.inputs_of[name] = x
        products = []
        for index, linear in enumerate(linears):
            weight = g.constant(f"{name}.weight{index}", np.ascontiguousarray(linear.weight.T))
            products.append(g.node("MatMul", [x, weight], f"{name}.product{index}"))
        return products


class SharedEmbeddings:
    """int8 word embeddings with a scale a row, in one file for all quantized graphs of a bundle."""

    def __init__(self, weights: WeightFile):
        self.weights = weights
        self.written = {}

    def constant(self, g, name: str, array: np.ndarray) -> str:
        """Writes `array` once, and points every graph at it."""
        if name not in self.written:
            g.constant(name, array, self.weights)
            self.written[name] = g.initializers[name]
        g.initializers[name] = self.written[name]
        return name

    def words(self, g, table: np.ndarray, ids: str) -> str:
        """float32 vectors of ids."""
        values, scales = int8_rows(table)
        rows = g.node("Gather", [self.constant(g, "word_embeddings", values), ids], "words.int8")
        scale = g.node("Gather", [self.constant(g, "word_embeddings.scale", scales[:, None]), ids], "words.scale")
        return g.node("Mul", [g.node("Cast", [rows], "words.cast", to=TensorProto.FLOAT), scale], "words")


def _evened(g, calibration: Calibration, x: str, linears: list[Linear], name: str, source: str):
    """x, weights and Gram matrix (None without calibration) with the outliers of a LayerNorm moved into the weights."""
    weights = [linear.weight for linear in linears]
    gram = calibration.gram.get(name)
    factor = calibration.evenness(name, weights) if source == "norm" else None
    if factor is None:
        return x, weights, gram
    x = g.node("Mul", [x, g.constant(f"{name}.evenness", 1 / factor)], f"{name}.evened")
    if gram is not None:
        gram = gram / np.outer(factor, factor)
    return x, [weight * factor for weight in weights], gram


class Int8:
    """int8 weights with a scale a column; uint8 activations with a scale a row.

    The products that `wide` names have 8 bits in blocks instead: finer activations, but slower.

    A scale for each row (token) and never for the whole batch: a text's scores do not depend on its neighbours.
    """

    name = "int8"

    def __init__(self, embeddings: SharedEmbeddings, calibration: Calibration, wide: re.Pattern = NOTHING):
        self.embeddings = embeddings
        self.calibration = calibration
        self.wide = wide

    def word_embeddings(self, g, table, ids):
        return self.embeddings.words(g, table, ids)

    def shared_constant(self, g, name, array):
        return self.embeddings.constant(g, name, array)

    def linear(self, g, x, linears, name, rows, source):
        x, weights, gram = _evened(g, self.calibration, x, linears, name, source)
        if self.wide.fullmatch(name):
            return [_block_product(g, x, each, 8, gram, f"{name}.weight{index}") for index, each in enumerate(weights)]
        largest = g.node("ReduceMax", [x, g.shape(1)], f"{name}.largest", keepdims=0)
        if source == "gelu":
            zero_point = GELU_ZERO_POINT
            step, least = 1 / (255 - zero_point), GELU_LEAST / zero_point
            candidates = [g.node("Mul", [largest, g.scalar(step)], f"{name}.from_largest")]
        else:
            zero_point = 128
            step, least = 1 / 127, LEAST_SCALE
            smallest = g.node("ReduceMin", [x, g.shape(1)], f"{name}.smallest", keepdims=0)
            candidates = [
                g.node("Mul", [largest, g.scalar(step)], f"{name}.from_largest"),
                g.node("Mul", [smallest, g.scalar(-step)], f"{name}.from_smallest"),
            ]
        scale = g.node("Max", [*candidates, g.scalar(least)], f"{name}.scale")
        zero = g.constant(f"zero_{zero_point}", np.array(zero_point, np.uint8))
        zeros = g.once("Expand", [zero, rows], f"{zero}.{rows}")
        # Rows are the axis here, so one pass divides each by its own scale and rounds.
        quantized = g.node("QuantizeLinear", [x, scale, zeros], f"{name}.quantized", axis=0)
        scale = g.node("Unsqueeze", [scale, g.shape(1)], f"{name}.scale_column")
        products = []
        for index, each in enumerate(weights):
            columns = int8_columns(each, gram)
            weight = g.constant(f"{name}.weight{index}", columns.values)
            scales = g.constant(f"{name}.weight{index}.scale", columns.scales)
            product = g.microsoft(
                "MatMulIntegerToFloat", [quantized, weight, g.scalar(1), scales, zero], f"{name}.integer{index}"
            )
            products.append(g.node("Mul", [product, scale], f"{name}.product{index}"))
        return products


class Int4:
    """int4 weights in blocks of 32 with a scale and a zero point each; activations rounded to int8 by block.

    The products that `wide` names keep 8 bits.
    """

    name = "int4"

    def __init__(self, embeddings: SharedEmbeddings, calibration: Calibration, wide: re.Pattern = NOTHING):
        self.embeddings = embeddings
        self.calibration = calibration
        self.wide = wide

    def word_embeddings(self, g, table, ids):
        return self.embeddings.words(g, table, ids)

    def shared_constant(self, g, name, array):
        return self.embeddings.constant(g, name, array)

    def linear(self, g, x, linears, name, rows, source):
        x, weights, gram = _evened(g, self.calibration, x, linears, name, source)
        bits = 8 if self.wide.fullmatch(name) else 4
        return [_block_product(g, x, each, bits, gram, f"{name}.weight{index}") for index, each in enumerate(weights)]


def _block_product(g, x: str, weight: np.ndarray, bits: int, gram: np.ndarray | None, name: str) -> str:
    out, inputs = weight.shape
    quantized = blocks(weight, bits, gram)
    constants = [
        g.constant(name, quantized.values),
        g.constant(f"{name}.scale", quantized.scales),
        g.constant(f"{name}.zero", quantized.zero_points),
    ]
    layout = {"K": inputs, "N": out, "bits": bits, "block_size": BLOCK, "accuracy_level": 4}
    return g.microsoft("MatMulNBits", [x, *constants], f"{name}.product", **layout)
