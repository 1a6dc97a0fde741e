"""The tokenizer of a checkpoint as the server wants it: one tokenizer.json that neither cuts nor pads."""

import json
from pathlib import Path

from tokenizers import Tokenizer

from .checkpoint import Checkpoint, CheckpointError


def server_tokenizer(folder: Path, checkpoint: Checkpoint) -> tuple[Tokenizer, int]:
    """The tokenizer, and how many tokens the model may be given, special ones included."""
    path = folder / "tokenizer.json"
    if path.exists():
        tokenizer = Tokenizer.from_file(str(path))
    else:
        tokenizer = _converted(folder)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if tokenizer.get_vocab_size() > len(checkpoint.word_embeddings):
        raise CheckpointError(
            f"the tokenizer knows {tokenizer.get_vocab_size()} tokens but the model has embeddings for "
            f"{len(checkpoint.word_embeddings)}: they do not belong together"
        )
    return tokenizer, min(checkpoint.positions, _said_length(folder))


def _converted(folder: Path) -> Tokenizer:
    """Builds the tokenizer from vocab.txt, or vocab.json and merges.txt; this one case needs transformers."""
    if not any((folder / name).exists() for name in ("vocab.json", "vocab.txt")):
        raise CheckpointError(f"{folder} holds no tokenizer.json (nor vocab.json and merges.txt, nor vocab.txt)")
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise CheckpointError(
            f"{folder} holds no tokenizer.json; to build one from its vocabulary, install transformers"
        ) from error
    return AutoTokenizer.from_pretrained(folder).backend_tokenizer


def _said_length(folder: Path) -> int:
    """model_max_length of tokenizer_config.json; 'no limit' is written there as a huge number."""
    path = folder / "tokenizer_config.json"
    said = json.loads(path.read_text(encoding="utf-8")).get("model_max_length") if path.exists() else None
    return int(said) if said else 10**9
