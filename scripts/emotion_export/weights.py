"""Weight files beside a graph: ONNX external data, laid out so that each tensor can be mapped on its own."""

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

# A page: a mapped tensor then shares no page with its neighbour, and every vector load in it is aligned.
ALIGNMENT_BYTES = 4096
# Smaller tensors stay in the graph: a page each would cost more than it saves.
EXTERNAL_FROM_BYTES = 4096

TYPES = {
    np.dtype(np.float32): TensorProto.FLOAT,
    np.dtype(np.int64): TensorProto.INT64,
    np.dtype(np.int32): TensorProto.INT32,
    np.dtype(np.int8): TensorProto.INT8,
    np.dtype(np.uint8): TensorProto.UINT8,
}


class WeightFile:
    """Appends tensors to one file and hands out the initializers that point into it."""

    def __init__(self, path: Path):
        self.path = path
        self.file = path.open("wb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def add(self, name: str, array: np.ndarray) -> TensorProto:
        """Writes `array` at the next aligned offset."""
        raw = np.ascontiguousarray(array).tobytes()
        self.file.write(b"\0" * (-self.file.tell() % ALIGNMENT_BYTES))
        offset = self.file.tell()
        self.file.write(raw)
        tensor = TensorProto(name=name, data_type=TYPES[array.dtype], dims=array.shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", self.path.name), ("offset", offset), ("length", len(raw))):
            tensor.external_data.add(key=key, value=str(value))
        return tensor


def inline(name: str, array: np.ndarray) -> TensorProto:
    """An initializer that is kept in the graph itself."""
    return helper.make_tensor(name, TYPES[array.dtype], array.shape, np.ascontiguousarray(array).tobytes(), raw=True)
