"""Decisions from logits, thresholds, and the scores of decisions against gold labels."""

from dataclasses import dataclass

import numpy as np

THRESHOLD_STEPS = np.arange(1, 100) / 100.0


def sigmoid(logits):
    """float64 probabilities, without overflow at either end."""
    return np.exp(-np.logaddexp(0.0, -np.asarray(logits, dtype=np.float64)))


def decide_multi_label(logits, thresholds):
    """bool [rows, labels]: a label is on where its probability reaches its threshold."""
    return sigmoid(logits) >= np.asarray(thresholds)


def decide_single_label(logits):
    """bool [rows, labels]: only the label with the highest logit is on."""
    logits = np.asarray(logits)
    decided = np.zeros(logits.shape, dtype=bool)
    decided[np.arange(len(logits)), logits.argmax(axis=1)] = True
    return decided


def tune_thresholds(logits, gold):
    """
    The threshold from 0.01 to 0.99 that maximises F1, for each label by itself.

    Of equally good ones the lowest; a label that no row carries keeps 0.5, since nothing can be learned of it.
    """
    scores = sigmoid(logits)
    thresholds = []
    for label in range(gold.shape[1]):
        on = gold[:, label]
        if not on.any():
            thresholds.append(0.5)
            continue
        decided = scores[:, label, None] >= THRESHOLD_STEPS
        hits = (decided & on[:, None]).sum(axis=0)
        f1 = 2.0 * hits / (decided.sum(axis=0) + on.sum())
        thresholds.append(float(THRESHOLD_STEPS[f1.argmax()]))
    return thresholds


@dataclass(frozen=True)
class Scores:
    """Scores of one set of decisions; a ratio without a denominator counts as 0."""

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    support: np.ndarray
    micro_f1: float
    exact_match: float
    accuracy: float
    """share of rows that have a decided label in their gold set; for one label a row, its accuracy"""

    @property
    def macro_f1(self):
        """Mean of the labels' F1, each label counting the same."""
        return float(self.f1.mean())


def score(decided, gold):
    """Scores of decisions, bool [rows, labels], against gold, bool [rows, labels]."""
    if decided.shape != gold.shape:
        raise ValueError(f"decisions {decided.shape} and gold {gold.shape} differ in shape")
    hits = (decided & gold).sum(axis=0)
    claimed = decided.sum(axis=0)
    support = gold.sum(axis=0)
    return Scores(
        precision=_ratio(hits, claimed),
        recall=_ratio(hits, support),
        f1=_ratio(2 * hits, claimed + support),
        support=support,
        micro_f1=float(_ratio(2 * hits.sum(), claimed.sum() + support.sum())),
        exact_match=float((decided == gold).all(axis=1).mean()),
        accuracy=float((decided & gold).any(axis=1).mean()),
    )


def flipped_share(decided, reference, multi_label):
    """
    Share of decisions that differ from the reference's.

    A decision is one (text, label) pair for multi-label, the chosen label of a text for single-label.
    """
    differs = decided != reference
    return float(differs.mean() if multi_label else differs.any(axis=1).mean())


def _ratio(numerator, denominator):
    return np.divide(numerator, denominator, out=np.zeros(np.shape(numerator)), where=np.asarray(denominator) > 0)
