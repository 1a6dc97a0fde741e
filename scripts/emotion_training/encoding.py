"""Texts to token ids, and batches of similar length."""

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from .goemotions import BadData


def readable_tokens(model_type, max_position_embeddings, pad_token_id):
    """Tokens a model can read, special tokens included."""
    # roberta and mpnet count positions from the padding id + 1.
    return max_position_embeddings - (pad_token_id + 1 if model_type in ("roberta", "mpnet") else 0)


def load_tokenizer(folder):
    """The folder's tokenizer.json with truncation and padding off: both are done here, per batch."""
    path = Path(folder) / "tokenizer.json"
    if not path.is_file():
        raise BadData(f"{path} is missing: save the tokenizer as a fast tokenizer (tokenizer.json)")
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def encode(tokenizer, texts, max_length):
    """Token ids of each text, special tokens included, cut to max_length."""
    tokenizer.enable_truncation(max_length)
    encoded = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    tokenizer.no_truncation()
    return encoded


def pad(rows, pad_token_id):
    """int64 input_ids and attention_mask [batch, longest], padded on the right."""
    longest = max(len(row) for row in rows)
    input_ids = np.full((len(rows), longest), pad_token_id, dtype=np.int64)
    attention_mask = np.zeros((len(rows), longest), dtype=np.int64)
    for index, row in enumerate(rows):
        input_ids[index, : len(row)] = row
        attention_mask[index, : len(row)] = 1
    return input_ids, attention_mask


def batches_within(lengths, token_budget):
    """Row indices in batches of similar length, each at most token_budget tokens with padding."""
    batches, batch = [], []
    for index in np.argsort(lengths, kind="stable"):
        if batch and (len(batch) + 1) * lengths[index] > token_budget:
            batches.append(batch)
            batch = []
        batch.append(int(index))
    if batch:
        batches.append(batch)
    return batches


def shuffled_batches(lengths, batch_size, seed):
    """
    Row indices of one epoch in batches of similar length, in random order.

    Rows are shuffled, then sorted by length within stretches of 50 batches: little padding, and still
    other neighbours each epoch. The same seed gives the same batches, which is what resuming relies on.
    """
    random = np.random.default_rng(seed)
    order = random.permutation(len(lengths))
    lengths = np.asarray(lengths)
    batches = []
    for start in range(0, len(order), batch_size * 50):
        stretch = order[start : start + batch_size * 50]
        stretch = stretch[np.argsort(lengths[stretch], kind="stable")]
        batches.extend(stretch[at : at + batch_size] for at in range(0, len(stretch), batch_size))
    return [batches[index] for index in random.permutation(len(batches))]
