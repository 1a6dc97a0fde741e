"""Runs the same rows alone and in random batches, and tells where their logits differ."""

import numpy as np

from emotion_export.run import feed, run_alone

MOST_ROWS = 64
# Batches are kept to this many tokens, padding counted, so that the tests stay quick.
BATCH_TOKENS = 4096


def alone(session, rows: list[list[int]], pad_id: int) -> np.ndarray:
    """Logits of each row in a run of its own, without padding."""
    with_types = len(session.get_inputs()) == 3
    return np.concatenate([run_alone(session, row, pad_id, with_types) for row in rows])


def differing(session, rows: list[list[int]], expected: np.ndarray, pad_id: int, seed: int = 1) -> list[int]:
    """Indices of rows whose logits in a random batch, under random padding up to 512, are not `expected` to the bit."""
    rng = np.random.default_rng(seed)
    with_types = len(session.get_inputs()) == 3
    order = rng.permutation(len(rows)).tolist()
    wrong = []
    while order:
        batch = order[: int(rng.integers(2, MOST_ROWS + 1))]
        width = min(512, max(len(rows[index]) for index in batch) + int(rng.choice([0, 0, 1, 7, 30, 500])))
        batch = batch[: max(1, BATCH_TOKENS // width)]
        del order[: len(batch)]
        logits = session.run(None, feed([rows[index] for index in batch], pad_id, with_types, width))[0]
        wrong += [index for index, got in zip(batch, logits, strict=True) if not np.array_equal(got, expected[index])]
    return wrong
