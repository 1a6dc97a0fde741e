"""Reading GoEmotions-format files, and what wrong ones are told."""

import numpy as np
import pytest

from emotion_training import goemotions, targets

from .conftest import LABELS, ROWS


def write(folder, content, labels="joy\nfear\nneutral"):
    (folder / "labels.txt").write_text(labels, encoding="utf-8")
    (folder / "dev.tsv").write_bytes(content)
    return goemotions.read_split(folder, "dev", goemotions.read_labels(folder))


def test_rows_keep_their_order_texts_and_labels(data_dir):
    split = goemotions.read_split(data_dir, "dev", goemotions.read_labels(data_dir))
    assert split.texts == [text for text, _ in ROWS]
    named = [",".join(label for label, on in zip(LABELS, row, strict=True) if on) for row in split.gold]
    assert named == [",".join(sorted(labels.split(","), key=LABELS.index)) for _, labels in ROWS]


def test_only_a_newline_ends_a_row(tmp_path):
    split = write(tmp_path, "a\u2028b \"quoted\x85\t0,2\tx\r\nc\t1\n\n".encode())
    assert split.texts == ["a\u2028b \"quoted\x85", "c"]
    assert split.gold.tolist() == [[True, False, True], [False, True, False]]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"fine\t0\tx\nno tab\n", r"dev\.tsv:2: 1 tab-separated columns"),
        (b"fine\t0\tx\na\t0\tb\tc\n", r"dev\.tsv:2: 4 tab-separated columns"),
        (b"fine\t0\tx\na\tjoy\tx\n", r"dev\.tsv:2: 'joy' is no label id"),
        (b"a\t0,\tx\n", r"dev\.tsv:1: '' is no label id"),
        (b"a\t-1\tx\n", r"dev\.tsv:1: '-1' is no label id"),
        (b"fine\t0\tx\n\nb\t3\tx\n", r"dev\.tsv:3: label id 3 is outside 0 to 2"),
        (b"  \t0\tx\n", r"dev\.tsv:1: the text is empty"),
        (b"fine\t0\tx\n\xff\xfe\t0\tx\n", r"dev\.tsv:2: not UTF-8"),
        (b"\n\n", r"dev\.tsv holds no rows"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path, content, said):
    with pytest.raises(goemotions.BadData, match=said):
        write(tmp_path, content)


@pytest.mark.parametrize(
    ("labels", "said"),
    [("joy\n\nfear", r"labels\.txt:2: empty line"), ("joy\nfear\njoy", r"labels\.txt:3: label 'joy' appears twice")],
)
def test_a_bad_label_file_is_named_by_line(tmp_path, labels, said):
    with pytest.raises(goemotions.BadData, match=said):
        write(tmp_path, b"a\t0\tx\n", labels)


def test_a_missing_split_says_what_is_expected(tmp_path):
    with pytest.raises(goemotions.BadData, match=r"train\.tsv is missing: rows of text"):
        goemotions.read_split(tmp_path, "train", ["joy", "fear"])


def test_every_goemotions_label_has_one_ekman_group():
    assert goemotions.ekman_membership(LABELS).sum(axis=1).tolist() == [1] * 28
    assert goemotions.EKMAN_LABELS == ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")


def test_labels_without_an_ekman_group_are_named():
    with pytest.raises(goemotions.BadData, match="boredom"):
        goemotions.ekman_membership(["joy", "boredom"])


def test_several_ekman_groups_share_the_target_and_one_group_counts_once(data_dir):
    split = goemotions.to_ekman(goemotions.read_split(data_dir, "dev", LABELS), LABELS)
    shares = targets.even_shares(split.gold)
    by_text = dict(zip(split.texts, shares.tolist(), strict=True))
    # anger and sadness: two groups
    assert by_text[ROWS[4][0]] == [0.5, 0, 0, 0, 0, 0.5, 0]
    # love and joy: one group
    assert by_text[ROWS[10][0]] == [0, 0, 0, 1, 0, 0, 0]


def test_a_teachers_group_weighs_the_probability_that_any_of_its_labels_holds():
    logits = np.full((1, 28), -30.0)
    for label, probability in (("joy", 0.5), ("love", 0.5), ("neutral", 0.25)):
        logits[0, LABELS.index(label)] = np.log(probability / (1 - probability))
    # joy: 1 - 0.5 * 0.5 = 0.75, neutral 0.25
    np.testing.assert_allclose(targets.teacher_shares(logits, LABELS), [[0, 0, 0, 0.75, 0.25, 0, 0]], atol=1e-6)


def test_teacher_shares_stay_finite_where_no_label_is_likely():
    shares = targets.teacher_shares(np.full((2, 28), -60.0), LABELS)
    np.testing.assert_allclose(shares.sum(axis=1), 1.0, atol=1e-5)


def test_mixed_targets_weigh_gold_and_teacher():
    gold, soft = np.array([[1.0, 0.0]]), np.array([[0.2, 0.8]])
    np.testing.assert_allclose(targets.mix(gold, soft, 0.25), [[0.8, 0.2]], atol=1e-7)
    with pytest.raises(goemotions.BadData, match="teacher weight of 1.5"):
        targets.mix(gold, soft, 1.5)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((3, 28)), r"shape \[3, 28\], expected \[4, 28\]"),
        (np.full((4, 28), np.nan), "not finite"),
    ],
)
def test_teacher_logits_that_do_not_fit_are_refused(tmp_path, array, said):
    path = tmp_path / "logits.npy"
    np.save(path, array)
    with pytest.raises(goemotions.BadData, match=said):
        targets.read_teacher_logits(path, 4, LABELS)


def test_a_file_that_is_no_array_is_refused(tmp_path):
    path = tmp_path / "logits.npy"
    path.write_text("0.1 0.2")
    with pytest.raises(goemotions.BadData, match="cannot read teacher logits"):
        targets.read_teacher_logits(path, 4, LABELS)
