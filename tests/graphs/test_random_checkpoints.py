"""The graphs of small random checkpoints against transformers, and their scores in any batch."""

import numpy as np
import pytest

from emotion_export.calibrate import Calibration
from emotion_export.checkpoint import load
from emotion_export.graph import write_graph
from emotion_export.precision import Fp32, Int4, Int8, SharedEmbeddings
from emotion_export.run import feed, session
from emotion_export.weights import WeightFile

from .batches import alone, differing
from .conftest import random_rows

FP32_DIFFERENCE = 1e-5
# Greatest difference allowed, as a part of the logits' own spread: a random checkpoint has no scale of its own.
QUANTIZED_SHARE = {"int8": 0.05, "int4": 0.5}


@pytest.fixture(scope="module")
def written(checkpoint, tmp_path_factory):
    """The checkpoint with a session of each precision."""
    folder = tmp_path_factory.mktemp(checkpoint.name)
    loaded = load(checkpoint)
    sessions = {"fp32": session(write_graph(loaded, Fp32(), folder))}
    with WeightFile(folder / "embeddings.bin") as file:
        embeddings = SharedEmbeddings(file)
        graphs = [write_graph(loaded, kind(embeddings, Calibration()), folder) for kind in (Int8, Int4)]
    sessions |= {graph.stem: session(graph) for graph in graphs}
    return checkpoint, loaded, sessions


def reference_logits(folder, rows, pad_id, width=0):
    """What transformers gives for the padded batch."""
    import torch
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    inputs = feed(rows, pad_id, False, width)
    with torch.inference_mode():
        return model(**{name: torch.from_numpy(array) for name, array in inputs.items()}).logits.numpy()


@pytest.mark.parametrize(("count", "longest", "width"), [(1, 3, 0), (1, 8, 8), (5, 30, 64), (17, 60, 0), (3, 512, 512)])
def test_fp32_logits_are_those_of_transformers(written, count, longest, width):
    folder, loaded, sessions = written
    rows = random_rows(count, longest, loaded.family, seed=longest)
    expected = reference_logits(folder, rows, loaded.pad_id, width)
    with_types = loaded.token_type_embeddings is not None
    got = sessions["fp32"].run(None, feed(rows, loaded.pad_id, with_types, width))[0]
    assert np.abs(got - expected).max() <= FP32_DIFFERENCE * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_quantized_logits_stay_near_those_of_fp32(written, precision):
    _, loaded, sessions = written
    rows = random_rows(60, 120, loaded.family)
    expected = alone(sessions["fp32"], rows, loaded.pad_id)
    got = alone(sessions[precision], rows, loaded.pad_id)
    assert not np.array_equal(got, expected), "nothing was quantized"
    assert np.abs(got - expected).max() <= QUANTIZED_SHARE[precision] * expected.std()


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_logits_are_the_same_bits_alone_and_in_any_batch(written, precision):
    _, loaded, sessions = written
    rows = random_rows(300, 90, loaded.family) + random_rows(6, 512, loaded.family)
    expected = alone(sessions[precision], rows, loaded.pad_id)
    assert differing(sessions[precision], rows, expected, loaded.pad_id) == []


def test_token_types_are_read_where_the_checkpoint_has_them(written):
    _, loaded, sessions = written
    if loaded.token_type_embeddings is None:
        assert "token_type_ids" not in {given.name for given in sessions["fp32"].get_inputs()}
        return
    inputs = feed(random_rows(1, 20, loaded.family), loaded.pad_id, True)
    first = sessions["fp32"].run(None, inputs)[0]
    inputs["token_type_ids"][0, 2:] = 1
    assert np.abs(sessions["fp32"].run(None, inputs)[0] - first).max() > 1e-3
