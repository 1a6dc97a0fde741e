"""Rounds float32 matrices to int8 with a scale a column, or to 4 or 8 bits with a scale a block.

Rounding goes input by input: what one input's weights lose is made up by the inputs that are still to be
rounded, as far as the two go together in the calibration texts (Frantar et al., 2022, arXiv 2210.17323). Without
calibration each weight is rounded on its own.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# Inputs that share a scale in the block formats; with 128, ONNX Runtime's results depend on the batch.
BLOCK = 32
# Share of the mean diagonal added to a Gram matrix, so that inputs seldom seen do not take up others' errors.
DAMPING = 0.01
# Inputs rounded before their errors are handed on to all later ones in a single product.
STRIDE = 128


def int8_rows(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int8 values and one scale a row, so that table[r] is about values[r] * scales[r]."""
    scales = _int8_scales(table)
    return np.rint(table / scales[:, None]).clip(-127, 127).astype(np.int8), scales


def _int8_scales(table: np.ndarray) -> np.ndarray:
    return (np.maximum(np.abs(table).max(axis=1), np.finfo(np.float32).tiny * 256) / 127).astype(np.float32)


@dataclass
class Int8Columns:
    """weight[k, n] is about values[k, n] * scales[n]; values are int8 in -127..127, ready for x @ values."""

    values: np.ndarray
    scales: np.ndarray


def int8_columns(weight: np.ndarray, gram: np.ndarray | None = None) -> Int8Columns:
    """A checkpoint's [out, in] weight as int8 [in, out] with one scale an output."""
    scales = _int8_scales(weight)

    def nearest(column: np.ndarray, _: int) -> tuple[np.ndarray, np.ndarray]:
        values = np.rint(column / scales).clip(-127, 127)
        return values, values * scales

    values = _round(weight, gram, nearest).astype(np.int8)
    return Int8Columns(np.ascontiguousarray(values.T), scales)


@dataclass
class Blocks:
    """The layout of com.microsoft MatMulNBits, with 4 or 8 bits a weight.

    values: uint8 [out, blocks, BLOCK * bits / 8], with 4 bits two to a byte, the first in the low half;
    scales: float32 [out, blocks]; zero_points: uint8 [out, blocks * bits / 8], likewise.
    """

    values: np.ndarray
    scales: np.ndarray
    zero_points: np.ndarray


def blocks(weight: np.ndarray, bits: int, gram: np.ndarray | None = None) -> Blocks:
    """A checkpoint's [out, in] weight as unsigned integers, a scale and a zero point for each BLOCK inputs."""
    out, inputs = weight.shape
    if inputs % BLOCK:
        raise ValueError(f"a matrix with {inputs} inputs cannot be cut into blocks of {BLOCK}")
    steps = 2**bits - 1
    cut = weight.reshape(out, inputs // BLOCK, BLOCK)
    low, high = np.minimum(cut.min(-1), 0), np.maximum(cut.max(-1), 0)
    scales = np.maximum((high - low) / steps, np.finfo(np.float32).tiny * 256).astype(np.float32)
    zeros = np.rint(-low / scales).clip(0, steps)

    def nearest(column: np.ndarray, index: int) -> tuple[np.ndarray, np.ndarray]:
        scale, zero = scales[:, index // BLOCK], zeros[:, index // BLOCK]
        values = np.rint(column / scale + zero).clip(0, steps)
        return values, (values - zero) * scale

    values = _round(weight, gram, nearest).astype(np.uint8).reshape(cut.shape)
    zeros = zeros.astype(np.uint8)
    if bits == 4:
        values, zeros = _pack_nibbles(values), _pack_nibbles(zeros)
    return Blocks(values, scales, zeros)


def _round(weight: np.ndarray, gram: np.ndarray | None, nearest: Callable) -> np.ndarray:
    """Whole numbers [out, in]; nearest(weights of one input, its index) gives them and what they stand for."""
    inputs = weight.shape[1]
    if gram is None:
        return np.stack([nearest(weight[:, index], index)[0] for index in range(inputs)], axis=1)
    # The most active inputs first: their errors then have the most inputs left to be made up by.
    order = np.argsort(-np.diag(gram), kind="stable")
    damped = gram[np.ix_(order, order)].astype(np.float64)
    damped[np.diag_indices(inputs)] += DAMPING * np.diag(damped).mean()
    spread = np.linalg.cholesky(np.linalg.inv(damped)).T.astype(np.float32)
    left = weight[:, order].astype(np.float32)
    values = np.empty_like(left)
    for begin in range(0, inputs, STRIDE):
        end = min(begin + STRIDE, inputs)
        errors = np.empty((len(left), end - begin), np.float32)
        for index in range(begin, end):
            values[:, index], stands_for = nearest(left[:, index], order[index])
            error = (left[:, index] - stands_for) / spread[index, index]
            left[:, index:end] -= np.outer(error, spread[index, index:end])
            errors[:, index - begin] = error
        left[:, end:] -= errors @ spread[begin:end, end:]
    return values[:, np.argsort(order)]


def _pack_nibbles(values: np.ndarray) -> np.ndarray:
    """Pairs along the last axis share a byte, the first of the pair in the low half."""
    if values.shape[-1] % 2:
        values = np.concatenate([values, np.zeros_like(values[..., :1])], axis=-1)
    return values[..., 0::2] | (values[..., 1::2] << 4)
