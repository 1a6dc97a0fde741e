"""Writes a checkpoint of roberta-base's shape with random weights and 28 labels: make_roberta.py FOLDER.

Its answers mean nothing; its memory is that of the models people export from the hub.
"""

import random
import sys
from pathlib import Path

import torch
from tokenizers import ByteLevelBPETokenizer
from tokenizers.processors import RobertaProcessing
from transformers import RobertaConfig, RobertaForSequenceClassification

VOCABULARY = 50_265
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def made_up_words(count: int) -> list[str]:
    choose = random.Random(0).choice
    syllables = [a + b + c for a in "bdfghklmnprstvz" for b in "aeiou" for c in ("", "n", "r", "s")]
    return ["".join(choose(syllables) for _ in range(3)) for _ in range(count)]


def write(folder: Path) -> None:
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=514,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        num_labels=28,
        problem_type="multi_label_classification",
        id2label={index: f"label_{index:02}" for index in range(28)},
    )
    RobertaForSequenceClassification(config).save_pretrained(folder)
    tokenizer = ByteLevelBPETokenizer()
    # Made-up words, as many as it takes to fill the vocabulary: the tokenizer's memory grows with it.
    tokenizer.train_from_iterator(made_up_words(60_000), VOCABULARY, 1, False, SPECIAL)
    tokenizer.post_processor = RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer.save(str(folder / "tokenizer.json"))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
