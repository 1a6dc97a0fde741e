"""Batches hold every row once, within their bounds."""

import numpy as np

from emotion_training import encoding


def test_batches_within_a_budget_hold_every_row_once():
    lengths = np.random.default_rng(2).integers(2, 60, 200)
    batches = encoding.batches_within(lengths, 128)
    assert sorted(row for batch in batches for row in batch) == list(range(200))
    assert max(len(batch) * lengths[batch].max() for batch in batches) <= 128


def test_a_text_over_the_budget_has_a_batch_of_its_own():
    assert encoding.batches_within([500, 3, 4], 100) == [[1, 2], [0]]


def test_an_epochs_batches_follow_from_the_seed_and_have_little_padding():
    lengths = np.random.default_rng(3).integers(2, 60, 3210)
    batches = encoding.shuffled_batches(lengths, 32, [7, 0])
    again = encoding.shuffled_batches(lengths, 32, [7, 0])
    other = encoding.shuffled_batches(lengths, 32, [7, 1])
    assert [batch.tolist() for batch in batches] == [batch.tolist() for batch in again]
    assert [batch.tolist() for batch in batches] != [batch.tolist() for batch in other]
    assert sorted(row for batch in batches for row in batch) == list(range(3210))
    padded = sum(len(batch) * lengths[batch].max() for batch in batches)
    assert padded < 1.1 * lengths.sum()


def test_tokenizer_json_is_loaded_without_its_own_truncation_and_padding(tiny_bert):
    tokenizer = encoding.load_tokenizer(tiny_bert)
    long_text = " ".join(["lake"] * 50)
    assert len(encoding.encode(tokenizer, [long_text, "lake"], 40)[0]) == 40
    assert [len(row) for row in encoding.encode(tokenizer, [long_text, "lake"], 64)] == [52, 3]


def test_padding_is_on_the_right_and_masked():
    input_ids, attention_mask = encoding.pad([[5, 6, 7], [8]], pad_token_id=1)
    assert input_ids.tolist() == [[5, 6, 7], [8, 1, 1]]
    assert attention_mask.tolist() == [[1, 1, 1], [1, 0, 0]]
