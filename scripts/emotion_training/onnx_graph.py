"""Logits of an ONNX graph, run by ONNX Runtime on the CPU the way the server runs it."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np  # noqa: E402
import onnxruntime  # noqa: E402  (after the variable above: it is read when the library loads)
from tqdm import tqdm  # noqa: E402

from emotion_export.products import use_exact_products  # noqa: E402

from .encoding import batches_within, pad  # noqa: E402
from .goemotions import BadData  # noqa: E402


class Graph:
    """One session with one intra-op thread, called from several threads at once."""

    def __init__(self, path, pad_token_id):
        if not Path(path).is_file():
            raise BadData(f"{path} is missing")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.enable_mem_pattern = False
        options.log_severity_level = 3
        use_exact_products(options)
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has an exception class a status, without a common base
            raise BadData(f"ONNX Runtime cannot load {path}: {error}") from error
        self.path = path
        self.pad_token_id = pad_token_id
        self.inputs = {node.name for node in self.session.get_inputs()}
        self.outputs = [node.name for node in self.session.get_outputs()]
        unknown = self.inputs - {"input_ids", "attention_mask", "token_type_ids"}
        if unknown or "logits" not in self.outputs:
            raise BadData(
                f"{path} has the inputs {sorted(self.inputs)} and outputs {self.outputs}, expected input_ids, "
                "attention_mask (and for bert token_type_ids), and logits"
            )

    def predict(self, encoded, threads, token_budget=1024):
        """float32 logits [rows, labels] of encoded texts, in batches of at most token_budget tokens with padding."""
        batches = batches_within([len(row) for row in encoded], token_budget)
        with ThreadPoolExecutor(threads) as pool:
            results = pool.map(lambda batch: self._run([encoded[row] for row in batch]), batches)
            bar = tqdm(results, total=len(batches), desc=Path(self.path).name, unit="batch", leave=False)
            found = list(bar)
        logits = np.zeros((len(encoded), found[0].shape[1]), dtype=np.float32)
        for batch, rows in zip(batches, found, strict=True):
            logits[batch] = rows
        if not np.isfinite(logits).all():
            raise BadData(f"{self.path} gives logits that are not finite")
        return logits

    def _run(self, rows):
        input_ids, attention_mask = pad(rows, self.pad_token_id)
        feed = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": np.zeros_like(input_ids),
        }
        return self.session.run(["logits"], {name: feed[name] for name in self.inputs})[0]
