"""Runs a written graph with ONNX Runtime, as the server does but without its batching."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from .checkpoint import Checkpoint
from .products import needs_company, use_exact_products


def session(graph: Path, threads: int = 1) -> onnxruntime.InferenceSession:
    """A CPU session; one intra-op thread unless told otherwise."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    use_exact_products(options)
    return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])


def feed(rows: list[list[int]], pad_id: int, with_types: bool, sequence: int = 0) -> dict[str, np.ndarray]:
    """The graph's inputs for token ids, padded on the right to the longest row or to `sequence`."""
    width = max(sequence, max(len(row) for row in rows))
    ids = np.full((len(rows), width), pad_id, np.int64)
    mask = np.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
        mask[index, : len(row)] = 1
    inputs = {"input_ids": ids, "attention_mask": mask}
    if with_types:
        inputs["token_type_ids"] = np.zeros_like(ids)
    return inputs


def run_alone(runner: onnxruntime.InferenceSession, row: list[int], pad_id: int, with_types: bool) -> np.ndarray:
    """float32 [1, labels] of a text that no other shares a run with, as the server runs it."""
    rows = [row, row[:1]] if needs_company(runner) else [row]
    return runner.run(None, feed(rows, pad_id, with_types))[0][:1]


class Classifier:
    """A graph and its tokenizer: texts to logits."""

    def __init__(self, graph: Path, tokenizer: Tokenizer, max_length: int, checkpoint: Checkpoint):
        self.graph = graph
        self.session = session(graph)
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.pad_id = checkpoint.pad_id
        self.with_types = checkpoint.token_type_embeddings is not None

    def token_ids(self, text: str) -> list[int]:
        """Ids with the special tokens, the text cut so that all fit."""
        self.tokenizer.enable_truncation(self.max_length)
        ids = self.tokenizer.encode(text).ids
        self.tokenizer.no_truncation()
        return ids

    def each(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [texts, labels], every text in a run of its own."""
        rows = [self.token_ids(text) for text in texts]
        return np.concatenate([run_alone(self.session, row, self.pad_id, self.with_types) for row in rows])
