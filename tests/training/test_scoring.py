"""Scores against figures worked out by hand, and thresholds against an exhaustive search."""

import numpy as np
import pytest

from emotion_training import scoring


def logit(probability):
    return np.log(probability) - np.log1p(-probability)


def test_scores_of_a_table_worked_out_by_hand():
    gold = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1]], dtype=bool)
    decided = np.array([[1, 0, 0], [1, 0, 0], [1, 0, 0], [0, 0, 0]], dtype=bool)
    scores = scoring.score(decided, gold)
    assert scores.precision.tolist() == pytest.approx([2 / 3, 0, 0])
    assert scores.recall.tolist() == [1, 0, 0]
    assert scores.f1.tolist() == pytest.approx([0.8, 0, 0])
    assert scores.support.tolist() == [2, 2, 1]
    assert scores.macro_f1 == pytest.approx(0.8 / 3)
    # 2 hits, 3 claimed, 5 gold
    assert scores.micro_f1 == pytest.approx(4 / 8)
    assert scores.exact_match == 0.25
    assert scores.accuracy == 0.5


def test_tuned_thresholds_are_the_best_of_all_hundredths():
    random = np.random.default_rng(5)
    gold = random.random((300, 6)) < 0.2
    logits = random.normal(-1.5, 1.0, gold.shape) + 1.5 * gold
    found = scoring.tune_thresholds(logits, gold)
    for label in range(gold.shape[1]):
        f1_at = {}
        for hundredths in range(1, 100):
            on = 1 / (1 + np.exp(-logits[:, label])) >= hundredths / 100
            f1_at[hundredths / 100] = 2 * (on & gold[:, label]).sum() / (on.sum() + gold[:, label].sum())
        best = max(f1_at.values())
        assert found[label] == min(threshold for threshold, f1 in f1_at.items() if f1 == best)


def test_a_label_that_dev_does_not_hold_keeps_one_half():
    gold = np.array([[True, False], [False, False]])
    logits = np.array([[logit(0.8), logit(0.9)], [logit(0.3), logit(0.1)]])
    # 0.31 to 0.80 are all perfect for the first label: the lowest is taken.
    assert scoring.tune_thresholds(logits, gold) == [0.31, 0.5]


def test_multi_label_decisions_use_each_labels_own_threshold():
    logits = np.array([[logit(0.4), logit(0.4)]])
    assert scoring.decide_multi_label(logits, [0.3, 0.5]).tolist() == [[True, False]]


def test_a_flip_is_a_pair_for_multi_label_and_a_text_for_single_label():
    reference = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], dtype=bool)
    decided = np.array([[0, 1], [1, 0], [0, 1], [0, 1]], dtype=bool)
    assert scoring.flipped_share(decided, reference, multi_label=False) == 0.25
    decided[0, 1] = False
    assert scoring.flipped_share(decided, reference, multi_label=True) == 1 / 8


def test_extreme_logits_give_finite_probabilities():
    assert scoring.sigmoid(np.array([-1000.0, 0.0, 1000.0])).tolist() == [0.0, 0.5, 1.0]
