"""Tiny random checkpoints and a few self-written rows, small enough to train in seconds."""

import contextlib
import io
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

LABELS = (
    "admiration amusement anger annoyance approval caring confusion curiosity desire disappointment disapproval "
    "disgust embarrassment excitement fear gratitude grief joy love nervousness optimism pride realization relief "
    "remorse sadness surprise neutral"
).split()

ROWS = [
    ("what a wonderful morning by the lake", "joy"),
    ("thank you so much for the help with the move", "gratitude"),
    ("i am so scared of that dark road", "fear"),
    ("the bus leaves at nine", "neutral"),
    ("you broke my favourite cup and did not even say sorry", "anger,sadness"),
    ("wow i did not see that coming", "surprise"),
    ("this soup smells rotten", "disgust"),
    ("i miss my old dog every day", "sadness,love"),
    ("why would they close the library", "curiosity,annoyance"),
    ("the meeting is in the second room", "neutral"),
    ("i love this song and you", "love,joy"),
    ("well done you earned it", "admiration"),
]


@dataclass
class Call:
    """What a call of a script left behind."""

    returncode: int
    stdout: str
    stderr: str


def call(command, arguments):
    """Calls a script's command in this process, since loading torch again takes longer than the tests do."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        try:
            code = command([str(argument) for argument in arguments])
        except SystemExit as left:
            code = left.code
    return Call(code, stdout.getvalue(), stderr.getvalue())


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """A data folder in GoEmotions format: 48 training rows, 12 dev and 12 test rows."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "labels.txt").write_text("\n".join(LABELS), encoding="utf-8")
    lines = [
        f"{text}\t{','.join(str(LABELS.index(label)) for label in labels.split(','))}\tid{number}\n"
        for number, (text, labels) in enumerate(ROWS)
    ]
    (folder / "train.tsv").write_text("".join(lines * 4), encoding="utf-8")
    for split in ("dev", "test"):
        (folder / f"{split}.tsv").write_text("".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def teacher_logits(tmp_path_factory, data_dir):
    """A .npy file of random logits for the training rows."""
    path = tmp_path_factory.mktemp("teacher") / "train_logits.npy"
    np.save(path, np.random.default_rng(1).normal(-2.0, 2.0, (len(ROWS) * 4, len(LABELS))).astype(np.float16))
    return path


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory):
    """A random two-layer bert without a trained head, and a word tokenizer for the rows."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("tiny-bert")
    words = sorted({word for text, _ in ROWS for word in text.split()})
    vocabulary = {token: index for index, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=32)
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=40, pad_token_id=0,
        # Far over the default 0.02: a random encoder must tell texts apart for a head to learn anything.
        initializer_range=0.2,
    )
    BertModel(config).save_pretrained(folder)
    return folder
