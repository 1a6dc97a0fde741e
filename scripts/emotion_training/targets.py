"""What a model is trained towards: gold labels, or gold labels mixed with a teacher's soft labels."""

import numpy as np

from .goemotions import BadData, ekman_membership


def even_shares(gold):
    """float32 [rows, groups]: a row with several gold groups spreads its weight evenly over them."""
    return (gold / gold.sum(axis=1, keepdims=True)).astype(np.float32)


def teacher_shares(logits, labels):
    """
    float32 [rows, 7]: a multi-label teacher's logits as shares of the Ekman groups.

    A group's weight is the probability that at least one of its labels holds, 1 - prod(1 - sigmoid(logit)).
    A plain sum would count a text that is both joy and love twice, and so take from neutral's share.
    """
    logits = np.asarray(logits, dtype=np.float64)
    log_of_none = -np.logaddexp(0.0, logits) @ ekman_membership(labels)
    any_label = -np.expm1(log_of_none)
    return (any_label / any_label.sum(axis=1, keepdims=True)).astype(np.float32)


def read_teacher_logits(path, rows, labels):
    """Logits of a teacher on the training rows, in file order: a .npy array [rows, labels]."""
    try:
        logits = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BadData(f"cannot read teacher logits from {path} as a .npy array: {error}") from error
    if logits.shape != (rows, len(labels)):
        raise BadData(
            f"{path} has the shape {list(logits.shape)}, expected [{rows}, {len(labels)}]: "
            "one row a training row in file order, one column a line of labels.txt"
        )
    if not np.isfinite(logits).all():
        raise BadData(f"{path} holds values that are not finite")
    return logits


def mix(gold_shares, soft_shares, teacher_weight):
    """The target of each row: gold shares and teacher's shares, weighted; rows still sum to 1."""
    if not 0.0 <= teacher_weight <= 1.0:
        raise BadData(f"a teacher weight of {teacher_weight} is outside 0 to 1")
    return ((1.0 - teacher_weight) * gold_shares + teacher_weight * soft_shares).astype(np.float32)
