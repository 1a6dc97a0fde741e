"""The bundles in onnx/: whole, and with scores that no batch changes. `--texts 2000` for the long run."""

import hashlib
import json

import numpy as np
import pytest
from tokenizers import Tokenizer

from emotion_export.run import session

from .batches import alone, differing
from .conftest import ROOT, sentences

BUNDLES = sorted(path.parent for path in (ROOT / "onnx").glob("*/config.json"))
LARGEST_FILE_BYTES = 95_000_000


@pytest.fixture(scope="module", params=BUNDLES, ids=lambda folder: folder.name)
def bundle(request):
    """A bundle's folder with its config."""
    return request.param, json.loads((request.param / "config.json").read_text())


def test_both_shipped_models_are_there():
    assert {"goemotions", "ekman"} <= {folder.name for folder in BUNDLES}


def test_every_file_is_the_one_that_config_describes(bundle):
    folder, config = bundle
    for name, entry in config["emotion_server"]["files"].items():
        content = (folder / name).read_bytes()
        assert len(content) == entry["bytes"] < LARGEST_FILE_BYTES, name
        assert hashlib.sha256(content).hexdigest() == entry["sha256"], name


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_scores_are_the_same_bits_alone_and_in_any_batch(bundle, precision, request):
    folder, config = bundle
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(config["emotion_server"]["max_length"])
    # The heavy model takes ten times as long a token: its default run has fewer texts.
    count = request.config.getoption("--texts", default=200)
    if count == 200 and config["hidden_size"] > 500:
        count = 60
    rows = [tokenizer.encode(text).ids for text in sentences(count)]
    runner = session(folder / f"{precision}.onnx", threads=1)
    expected = alone(runner, rows, config["pad_token_id"])
    assert differing(runner, rows, expected, config["pad_token_id"]) == []


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_probes_hold(bundle, precision):
    folder, config = bundle
    section = config["emotion_server"]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    runner = session(folder / f"{precision}.onnx")
    for probe in section["probes"]:
        logits = alone(runner, [tokenizer.encode(probe["text"]).ids], config["pad_token_id"])[0]
        off = np.abs(logits - probe["logits"]).max()
        assert off <= section["precisions"][precision]["probe_tolerance"], probe["text"]
