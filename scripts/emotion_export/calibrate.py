"""What flows into each matrix product on real texts: the ranges and correlations that quantization goes by."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx

from .run import feed, session

# Tokens of a calibration batch; batches hold texts of one length only, so that no padding is counted.
BATCH_TOKENS = 512
# Rows gathered before they are multiplied: one large product is many times quicker than a lot of small ones.
GRAM_ROWS = 4096
# Share of an outlier that moves into the weights.
EVENNESS = 0.75

# Where no calibration file is given. Outliers sit in the same few channels whatever is said, so these few texts
# show them; correlations between inputs take thousands of tokens.
SENTENCES = (
    "I can't believe you remembered my birthday, thank you so much!",
    "Why would anyone say something that cruel to a child?",
    "The bus leaves at half past seven from the stop behind the library.",
    "lol that was hilarious, I nearly fell off my chair 😂",
    "I miss my old dog every single day, the house is so quiet now.",
    "Honestly, I'm not sure what you mean. Could you explain it again?",
    "This is disgusting. Who leaves rotten food on the stairs?",
    "We did it!!! After three years of work we finally won the cup!",
    "I'm scared of what the doctor is going to tell us tomorrow.",
    "Not a fan of the new design, the old one was easier to read.",
    "Sorry, that was my fault; I should have called you first.",
    "Wow, I did not see that coming at all.",
    "You should be proud of yourself, it takes courage to speak up.",
    "He keeps interrupting everyone, it's getting on my nerves.",
    "I hope things get better for you soon, take care of yourself.",
    "She said yes, and now we have to find a place for two hundred guests.",
    "Water boils at a lower temperature in the mountains.",
    "I wish I could travel again, somewhere warm, with you.",
    "So relieved that everybody got home safe after the storm.",
    "At first I was angry, but the longer I listened the more I understood why he had left without saying a word.",
    "no",
    "What time does the shop on the corner close on Sundays?",
    "It is embarrassing how often I forget people's names at parties.",
    "They promised to fix it weeks ago and nothing has happened; I am so disappointed.",
)


@dataclass
class Calibration:
    """Statistics by the name of the matrix product; empty when the graph was not calibrated."""

    # Greatest magnitude of each input.
    largest: dict[str, np.ndarray] = field(default_factory=dict)
    # Inputs times inputs, summed over all rows; empty when there were too few texts for it.
    gram: dict[str, np.ndarray] = field(default_factory=dict)

    def evenness(self, name: str, weights: list[np.ndarray]) -> np.ndarray | None:
        """A factor for each input: activations are divided by it, weights multiplied, and the product stays.

        A few channels of a LayerNorm's output are ten times as large as the rest. With one scale a row they
        would leave the others a few steps only; the weights, with scales of their own, can bear the range
        (Xiao et al., 2023, arXiv 2211.10438).
        """
        if name not in self.largest:
            return None
        tiny = np.float32(1e-5)
        weight = np.maximum(np.max([np.abs(each).max(axis=0) for each in weights], axis=0), tiny)
        factor = np.maximum(self.largest[name], tiny) ** EVENNESS / weight ** (1 - EVENNESS)
        return (factor / np.exp(np.log(factor).mean())).astype(np.float32)


def calibrate(
    graph: Path, inputs_of: dict[str, str], token_rows: list[list[int]], pad_id: int, with_gram: bool
) -> Calibration:
    """Runs the fp32 `graph` on `token_rows`; `inputs_of` names the tensor that each matrix product reads."""
    model = onnx.load(graph, load_external_data=False)
    tensors = sorted(set(inputs_of.values()))
    for tensor in tensors:
        model.graph.output.append(onnx.helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, None))
    # Beside the graph, because its external weights are looked up relative to it.
    watched = graph.with_name("calibration.onnx")
    onnx.save(model, watched)
    runner = session(watched)
    watched.unlink()
    with_types = len(runner.get_inputs()) == 3
    statistics = {tensor: _Statistics(with_gram) for tensor in tensors}
    for batch in _batches(token_rows):
        for tensor, rows in zip(tensors, runner.run(tensors, feed(batch, pad_id, with_types)), strict=True):
            statistics[tensor].add(rows)
    for each in statistics.values():
        each.multiply()
    return Calibration(
        {name: statistics[tensor].largest for name, tensor in inputs_of.items()},
        {name: statistics[tensor].gram for name, tensor in inputs_of.items()} if with_gram else {},
    )


class _Statistics:
    def __init__(self, with_gram: bool):
        self.with_gram = with_gram
        self.largest = np.float32(0)
        self.gram = np.float32(0)
        self.waiting = []

    def add(self, rows: np.ndarray):
        self.largest = np.maximum(self.largest, np.abs(rows).max(axis=0))
        if self.with_gram:
            self.waiting.append(rows)
            if sum(map(len, self.waiting)) >= GRAM_ROWS:
                self.multiply()

    def multiply(self):
        if self.waiting:
            rows = np.concatenate(self.waiting)
            self.gram = self.gram + rows.T @ rows
            self.waiting = []


def _batches(token_rows: list[list[int]]) -> list[list[list[int]]]:
    batches = []
    for row in sorted(token_rows, key=len):
        if not batches or len(batches[-1][0]) != len(row) or len(batches[-1]) * len(row) >= BATCH_TOKENS:
            batches.append([])
        batches[-1].append(row)
    return batches
