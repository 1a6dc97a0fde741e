"""Quantizes a checkpoint the usual way: its fp32 graph, and ONNX Runtime's dynamic quantization with its defaults.

    python -m emotion_measure.stock_graph CHECKPOINT int8.onnx

The fp32 graph is the one that export.py makes its own from, so that the two int8 graphs differ in the way they are
quantized and in nothing else. Dynamic quantization keeps one scale for each weight matrix, and finds one for each
activation as it runs.
"""

import argparse
import tempfile
from pathlib import Path

from onnx import TensorProto
from onnxruntime.quantization import QuantType, quantize_dynamic

from emotion_export.checkpoint import load
from emotion_export.graph import write_graph
from emotion_export.precision import Fp32


def write_stock_graph(checkpoint: Path, path: Path) -> None:
    """Writes the dynamic int8 graph of a checkpoint's folder to `path`."""
    with tempfile.TemporaryDirectory(prefix="stock-graph-") as scratch:
        graph = write_graph(load(checkpoint), Fp32(), Path(scratch))
        # Shapes end at ONNX Runtime's own attention operator: the type of what follows has to be told.
        options = {"DefaultTensorType": TensorProto.FLOAT}
        quantize_dynamic(graph, path, weight_type=QuantType.QInt8, extra_options=options)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", type=Path, help="folder of a fine-tuned sequence classifier")
    parser.add_argument("output", type=Path, help="where the graph is written")
    arguments = parser.parse_args()
    write_stock_graph(arguments.checkpoint, arguments.output)
