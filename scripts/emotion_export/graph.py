"""Writes the ONNX graph of a sequence classifier, once for every precision.

Inside, all tokens of a batch stand in one [tokens, hidden] matrix without the padding; only attention sees
[batch, sequence, hidden]. So padding costs next to nothing, and the server may run texts of any lengths together:
the model's metadata says so (`padding_free`). A graph that kept the padding would be 2 to 4 % faster where there is
none, and slower from a padding of 5 % on.
The logits read nothing but the first token, so the last layer computes keys and values for all tokens and
everything else for the first one only.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from .checkpoint import Checkpoint, Layer, Linear, Norm
from .precision import Precision
from .weights import EXTERNAL_FROM_BYTES, WeightFile, inline

OPSET = 21
IR_VERSION = 10


class GraphWriter:
    """Collects nodes and initializers; every method that adds a node returns the name of what it computes."""

    def __init__(self, weights: WeightFile):
        self.weights = weights
        self.nodes = []
        self.initializers = {}

    def node(self, op: str, inputs: list[str], name: str, outputs: int = 1, domain: str = "", **attributes):
        """Adds one node; its outputs are `name`, or `name.0`, `name.1`, … when there are several."""
        names = [name] if outputs == 1 else [f"{name}.{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, name=name, domain=domain, **attributes))
        return names[0] if outputs == 1 else names

    def microsoft(self, op: str, inputs: list[str], name: str, outputs: int = 1, **attributes):
        """Adds one of ONNX Runtime's own operators."""
        return self.node(op, inputs, name, outputs, domain="com.microsoft", **attributes)

    def once(self, op: str, inputs: list[str], name: str) -> str:
        """Adds a node unless one of that name is there."""
        return name if any(node.name == name for node in self.nodes) else self.node(op, inputs, name)

    def constant(self, name: str, array: np.ndarray, weights: WeightFile | None = None) -> str:
        """Adds an initializer, in `weights` (the graph's own file unless another is given) when it is large."""
        if name not in self.initializers:
            if array.nbytes < EXTERNAL_FROM_BYTES:
                self.initializers[name] = inline(name, array)
            else:
                self.initializers[name] = (weights or self.weights).add(name, array)
        return name

    def shape(self, *dims: int) -> str:
        """A constant shape for Reshape, -1 for the dimension that is inferred."""
        return self.constant("shape" + "".join(f"_{dim}" for dim in dims), np.array(dims, np.int64))

    def scalar(self, value: float) -> str:
        """A constant float32."""
        return self.constant(f"scalar_{value:.9g}", np.array(value, np.float32))

    def index(self, value: int) -> str:
        """A constant scalar index."""
        return self.constant(f"index_{value}", np.array(value, np.int64))


def write_graph(checkpoint: Checkpoint, precision: Precision, folder: Path) -> Path:
    """Writes `<precision>.onnx` and `<precision>.bin` into `folder`; returns the path of the graph."""
    path = folder / f"{precision.name}.onnx"
    with WeightFile(folder / f"{precision.name}.bin") as weights:
        writer = GraphWriter(weights)
        _classifier(writer, checkpoint, precision)
    inputs = ["input_ids", "attention_mask"]
    if checkpoint.token_type_embeddings is not None:
        inputs.append("token_type_ids")
    labels = len(checkpoint.head_out.weight)
    graph = helper.make_graph(
        writer.nodes,
        f"{checkpoint.family}_{precision.name}",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"]) for name in inputs],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", labels])],
        list(writer.initializers.values()),
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, producer_name="emotion-server", ir_version=IR_VERSION)
    helper.set_model_props(model, {"padding_free": "1"})
    onnx.save(model, path)
    return path


def _classifier(g: GraphWriter, checkpoint: Checkpoint, precision: Precision):
    hidden = checkpoint.word_embeddings.shape[1]
    batch_and_sequence = g.node("Shape", ["input_ids"], "batch_and_sequence")
    padding_mask = g.node("Cast", ["attention_mask"], "padding_mask", to=TensorProto.INT32)
    grid = g.node("Concat", [batch_and_sequence, g.shape(hidden)], "grid_shape", axis=0)
    _cells(g)
    position_bias = _position_bias(g, checkpoint, batch_and_sequence)
    x = _embeddings(g, checkpoint, precision, batch_and_sequence)
    g.node("Shape", ["ids"], "token_rows")
    g.node("Slice", [batch_and_sequence, g.shape(0), g.shape(1)], "first_rows")
    attention = Attention(g, checkpoint, precision, grid, padding_mask, position_bias)
    for index, layer in enumerate(checkpoint.layers):
        name = f"layer{index}"
        if index + 1 < len(checkpoint.layers):
            rows = "token_rows"
            context = attention.every_token(x, layer, name)
        else:
            tokens = x
            x = g.node("Gather", [tokens, "row_of_first"], f"{name}.first")
            rows = "first_rows"
            context = attention.first_token(tokens, x, layer, name)
        x = _after_attention(g, checkpoint, precision, context, x, layer, name, rows)
    _head(g, checkpoint, x, hidden)


def _cells(g: GraphWriter):
    """Where each token stands in the grid of batch and sequence, and which token each cell of the grid shows.

    A cell of padding shows some other token; attention masks it.
    """
    mask = g.node("Reshape", ["attention_mask", g.shape(-1)], "mask")
    g.node("Reshape", [g.node("NonZero", [mask], "real_cells"), g.shape(-1)], "cell_of_token")
    counted = g.node("CumSum", [mask, g.index(0)], "tokens_so_far")
    row = g.node("Sub", [counted, g.index(1)], "row_or_minus_one")
    row = g.node("Max", [row, g.index(0)], "row_of_cell")
    by_text = g.node("Reshape", [row, "batch_and_sequence"], "rows_by_text")
    g.node("Gather", [by_text, g.index(0)], "row_of_first", axis=1)


def _tokens_only(g: GraphWriter, cells: str, name: str) -> str:
    """The cells that hold a token, of values [batch, sequence]."""
    flat = g.node("Reshape", [cells, g.shape(-1)], f"{name}.cells")
    return g.node("Gather", [flat, "cell_of_token"], name)


def _embeddings(g: GraphWriter, checkpoint: Checkpoint, precision: Precision, batch_and_sequence: str) -> str:
    ids = _tokens_only(g, "input_ids", "ids")
    words = precision.word_embeddings(g, checkpoint.word_embeddings, ids)
    position_table = precision.shared_constant(g, "position_embeddings", checkpoint.position_embeddings)
    if checkpoint.family == "bert":
        sequence = g.node("Gather", [batch_and_sequence, g.index(1)], "sequence")
        steps = g.node("Range", [g.index(0), sequence, g.index(1)], "steps")
        positions = g.node("Expand", [steps, batch_and_sequence], "positions_grid")
    else:
        # Positions count real tokens from pad_id + 1; padding keeps pad_id.
        pad = g.index(checkpoint.pad_id)
        real = g.node("Not", [g.node("Equal", ["input_ids", pad], "is_pad")], "is_real")
        real = g.node("Cast", [real], "real", to=TensorProto.INT64)
        counted = g.node("Mul", [g.node("CumSum", [real, g.index(1)], "count"), real], "counted")
        positions = g.node("Add", [counted, pad], "positions_grid")
    positions = _tokens_only(g, positions, "positions")
    places = g.node("Gather", [position_table, positions], "places")
    if checkpoint.token_type_embeddings is not None:
        types = _tokens_only(g, "token_type_ids", "types")
        table = precision.shared_constant(g, "token_type_embeddings", checkpoint.token_type_embeddings)
        places = g.node("Add", [places, g.node("Gather", [table, types], "type_vectors")], "places_and_types")
    return _sum_and_norm(g, checkpoint, words, places, checkpoint.embeddings_norm, None, "embeddings")


def _position_bias(g: GraphWriter, checkpoint: Checkpoint, batch_and_sequence: str) -> str:
    """mpnet adds a learned number for each head and distance to every attention score: [1, heads, S, S]."""
    if checkpoint.relative_attention_bias is None:
        return ""
    longest = checkpoint.positions
    distances = np.arange(1 - longest, longest)
    buckets = relative_buckets(distances, len(checkpoint.relative_attention_bias))
    # One row a head, one column a distance (key minus query, from 1 - longest).
    table = g.constant("distance_bias", np.ascontiguousarray(checkpoint.relative_attention_bias[buckets].T))
    sequence = g.node("Gather", [batch_and_sequence, g.index(1)], "bias.sequence")
    steps = g.node("Range", [g.index(0), sequence, g.index(1)], "bias.steps")
    steps = g.node("Cast", [steps], "bias.steps32", to=TensorProto.INT32)
    queries = g.node("Unsqueeze", [steps, g.shape(1)], "bias.queries")
    keys = g.node("Add", [steps, g.constant("bias.zero", np.array(longest - 1, np.int32))], "bias.keys")
    distance = g.node("Sub", [keys, queries], "bias.distance")
    by_head = g.node("Gather", [table, distance], "bias.by_head", axis=1)
    return g.node("Unsqueeze", [by_head, g.shape(0)], "bias")


def relative_buckets(distances: np.ndarray, buckets: int, far: int = 128) -> np.ndarray:
    """The bucket of each key-minus-query distance: half of them for each direction, exact when near, then
    logarithmic up to `far`."""
    half = buckets // 2
    exact = half // 2
    away = np.abs(distances)
    # float32 throughout, as in training: a distance on the edge of a bucket must fall on the same side.
    ratio = np.log(np.maximum(away, 1).astype(np.float32) / np.float32(exact)) / np.float32(np.log(far / exact))
    logarithmic = exact + (ratio * np.float32(half - exact)).astype(np.int64)
    bucket = np.where(away < exact, away, np.minimum(logarithmic, half - 1))
    return bucket + np.where(distances > 0, half, 0)


class Attention:
    """Multi-head self-attention; what is the same in every layer is kept here."""

    def __init__(self, g, checkpoint: Checkpoint, precision: Precision, grid: str, padding_mask: str, bias: str):
        self.g = g
        self.heads = checkpoint.config["num_attention_heads"]
        self.hidden = checkpoint.word_embeddings.shape[1]
        self.precision = precision
        self.grid = grid
        self.padding_mask = padding_mask
        self.bias = bias

    def every_token(self, x: str, layer: Layer, name: str) -> str:
        """Context vectors [tokens, hidden] of x [tokens, hidden]."""
        linears = [layer.query, layer.key, layer.value]
        parts = self.precision.linear(self.g, x, linears, f"{name}.qkv", "token_rows", "norm")
        query, key, value = (self._grid(part) for part in parts)
        context = self._attend(query, key, value, self.bias, layer, name)
        flat = self.g.node("Reshape", [context, self.g.shape(-1, self.hidden)], f"{name}.context.flat")
        return self.g.node("Gather", [flat, "cell_of_token"], f"{name}.context.tokens")

    def first_token(self, tokens: str, first: str, layer: Layer, name: str) -> str:
        """Context vectors [batch, hidden] of the first tokens [batch, hidden] among tokens [tokens, hidden]."""
        parts = self.precision.linear(self.g, tokens, [layer.key, layer.value], f"{name}.kv", "token_rows", "norm")
        key, value = (self._grid(part) for part in parts)
        (query,) = self.precision.linear(self.g, first, [layer.query], f"{name}.q", "first_rows", "norm")
        query = self.g.node("Reshape", [query, self.g.shape(-1, 1, self.hidden)], f"{name}.q.grid")
        # Asked twice: a lone query takes another path through ONNX Runtime's matrix product, whose last bits
        # depend on how far the keys are padded.
        query = self.g.node("Concat", [query, query], f"{name}.q.twice", axis=1)
        bias = self.bias
        if bias:
            first_bias = self.g.node("Slice", [bias, *map(self.g.shape, (0, 1, 2))], f"{name}.bias")
            bias = self.g.node("Concat", [first_bias, first_bias], f"{name}.bias.twice", axis=2)
        context = self._attend(query, key, value, bias, layer, name)
        return self.g.node("Gather", [context, self.g.index(0)], f"{name}.context.first", axis=1)

    def _grid(self, tokens: str) -> str:
        """Vectors [tokens, hidden] as [batch, sequence, hidden]."""
        cells = self.g.node("Gather", [tokens, "row_of_cell"], f"{tokens}.cells")
        return self.g.node("Reshape", [cells, self.grid], f"{tokens}.grid")

    def _attend(self, query: str, key: str, value: str, bias: str, layer: Layer, name: str) -> str:
        biases = np.concatenate([layer.query.bias, layer.key.bias, layer.value.bias])
        inputs = [query, key, value, self.g.constant(f"{name}.qkv.bias", biases), self.padding_mask]
        if bias:
            inputs.append(bias)
        return self.g.microsoft("MultiHeadAttention", inputs, f"{name}.context", num_heads=self.heads)


def _after_attention(g, checkpoint, precision, context: str, x: str, layer: Layer, name: str, rows: str) -> str:
    (mixed,) = precision.linear(g, context, [layer.attention_output], f"{name}.attention_output", rows, "attention")
    x = _sum_and_norm(g, checkpoint, mixed, x, layer.attention_norm, layer.attention_output.bias, f"{name}.attention")
    (wide,) = precision.linear(g, x, [layer.intermediate], f"{name}.intermediate", rows, "norm")
    bias = g.constant(f"{name}.intermediate.bias", layer.intermediate.bias)
    wide = g.microsoft("BiasGelu", [wide, bias], f"{name}.gelu")
    (narrow,) = precision.linear(g, wide, [layer.output], f"{name}.output", rows, "gelu")
    return _sum_and_norm(g, checkpoint, narrow, x, layer.output_norm, layer.output.bias, f"{name}.ffn")


def _sum_and_norm(g, checkpoint, x: str, skip: str, norm: Norm, bias: np.ndarray | None, name: str) -> str:
    # Not SkipLayerNormalization: ONNX Runtime 1.32 computes it element by element on CPUs, which takes four times
    # as long as the same sum and LayerNormalization (10 to 20 % of a whole run).
    if bias is not None:
        x = g.node("Add", [x, g.constant(f"{name}.bias", bias)], f"{name}.biased")
    total = g.node("Add", [x, skip], f"{name}.sum")
    inputs = [total, g.constant(f"{name}.gamma", norm.gamma), g.constant(f"{name}.beta", norm.beta)]
    epsilon = checkpoint.config["layer_norm_eps"]
    return g.node("LayerNormalization", inputs, f"{name}.norm", axis=-1, epsilon=epsilon)


def _head(g: GraphWriter, checkpoint: Checkpoint, first: str, hidden: int):
    """Dense, tanh and classifier, in float32.

    Each text is its own matrix times vector (weight @ x, not x @ weight): a product over the whole batch
    would take another path for a batch of one, and the logits' last bits with it.
    """
    column = g.node("Unsqueeze", [first, g.shape(2)], "head.column")

    def dense(x: str, linear: Linear, name: str) -> str:
        product = g.node("MatMul", [g.constant(f"{name}.weight", linear.weight), x], f"{name}.product")
        return g.node("Add", [product, g.constant(f"{name}.bias", linear.bias[:, None])], name)

    features = g.node("Tanh", [dense(column, checkpoint.head_dense, "head.dense")], "head.tanh")
    logits = dense(features, checkpoint.head_out, "head.out")
    g.node("Squeeze", [logits, g.shape(2)], "logits")
