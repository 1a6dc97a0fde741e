"""Small random checkpoints of the three architectures, and texts written for these tests."""

import random
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

LABELS = 6
VOCABULARY = 300
HIDDEN = 128
FIRST_WORD_ID = 5


def pytest_addoption(parser):
    parser.addoption("--texts", type=int, default=200, help="texts for the batch-invariance of the shipped bundles")


def make_checkpoint(family: str, folder: Path, layers: int = 3) -> Path:
    """A random sequence classifier with every bias and normalization away from its neutral value."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    torch.manual_seed(11)
    config = AutoConfig.for_model(
        family,
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=4 * HIDDEN,
        # Roberta-like models number positions from after the padding id.
        max_position_embeddings=512 if family == "bert" else 514,
        pad_token_id=0 if family == "bert" else 1,
        num_labels=LABELS,
        problem_type="multi_label_classification",
        **({} if family == "mpnet" else {"type_vocab_size": 2 if family == "bert" else 1}),
    )
    model = AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)
    return folder


def make_tokenizer(family: str, folder: Path) -> list[str]:
    """A whole-word tokenizer.json for a checkpoint of `make_checkpoint`; returns its words."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import BertProcessing

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    if family == "bert":
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [f"w{index}" for index in range(VOCABULARY - len(special))]
    unknown, first, last = (1, 2, 3) if family == "bert" else (3, 0, 2)
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(special + words)}, special[unknown]))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = BertProcessing((special[last], last), (special[first], first))
    tokenizer.save(str(folder / "tokenizer.json"))
    return words


def random_rows(count: int, longest: int, family: str, seed: int = 3) -> list[list[int]]:
    """Token ids with the special tokens at both ends, 3 to `longest` tokens each."""
    rng = np.random.default_rng(seed)
    first, last = (2, 3) if family == "bert" else (0, 2)
    return [
        [first, *rng.integers(FIRST_WORD_ID, VOCABULARY, int(length) - 2).tolist(), last]
        for length in rng.integers(3, longest + 1, count)
    ]


@pytest.fixture(scope="session", params=["bert", "mpnet", "roberta"])
def checkpoint(request, tmp_path_factory):
    """A folder with a random checkpoint; its name is the architecture."""
    return make_checkpoint(request.param, tmp_path_factory.mktemp("checkpoint") / request.param)


PARTS = [
    ["I", "We", "They", "My sister", "The driver", "Nobody", "That teacher", "Our neighbours", "The whole team"],
    ["really", "never", "still", "almost", "honestly", "suddenly", "barely", "always"],
    ["enjoyed", "forgot", "hated", "feared", "missed", "noticed", "broke", "celebrated", "understood", "ruined"],
    ["the long walk home", "your birthday", "that terrible film", "the last train", "a quiet evening", "the news",
     "my old bicycle", "the smell of rain", "every single word", "the exam", "your letter 😊", "this mess!!!"],
    ["because of the rain", "with tears in my eyes", "for no reason at all", "and laughed about it", "again",
     "although it hurt", "before anyone else did", "and could not sleep", "?", "in front of everybody"],
]  # fmt: skip


def sentences(count: int, seed: int = 5) -> list[str]:
    """Texts of 5 to about 450 words, short ones mostly."""
    rng = random.Random(seed)
    texts = []
    for index in range(count):
        repeats = rng.randint(12, 40) if index % 20 == 19 else rng.choice([1, 1, 1, 2, 3])
        texts.append(" ".join(" ".join(rng.choice(part) for part in PARTS) for _ in range(repeats)))
    return texts
