"""What calibration, wide products and the readers of checkpoints do, on small random weights."""

import json
import re
import struct

import numpy as np
import onnx
import pytest

from emotion_export import card
from emotion_export.calibrate import Calibration, calibrate
from emotion_export.checkpoint import CheckpointError, load, read_safetensors
from emotion_export.graph import write_graph
from emotion_export.precision import Fp32, Int4, Int8, SharedEmbeddings
from emotion_export.quantize import BLOCK, blocks, int8_columns
from emotion_export.run import session
from emotion_export.weights import WeightFile

from .batches import alone, differing
from .conftest import make_checkpoint, random_rows


def correlated_inputs(inputs=128, rows=4000):
    """Inputs that go together, as those of a network do."""
    rng = np.random.default_rng(2)
    return (rng.standard_normal((rows, 16)) @ rng.standard_normal((16, inputs))).astype(np.float32)


def restored(quantized, bits):
    """The float32 matrix that a block layout stands for."""
    values, zeros = quantized.values, quantized.zero_points
    if bits == 4:
        values, zeros = (np.stack([part & 15, part >> 4], -1).reshape(len(part), -1) for part in (values, zeros))
    blocks_each = quantized.scales.shape[1]
    values = values.reshape(len(values), blocks_each, BLOCK).astype(np.float32)
    zeros = zeros[:, :blocks_each, None].astype(np.float32)
    return ((values - zeros) * quantized.scales[..., None]).reshape(len(values), -1)


@pytest.mark.parametrize(("bits", "steps"), [(4, 15), (8, 255)])
def test_a_block_is_off_by_half_a_step_at_most(bits, steps):
    weight = np.random.default_rng(1).standard_normal((24, 96)).astype(np.float32)
    cut = weight.reshape(24, 3, BLOCK)
    step = (np.maximum(cut.max(-1), 0) - np.minimum(cut.min(-1), 0)) / steps
    off = np.abs(restored(blocks(weight, bits), bits) - weight).reshape(cut.shape)
    # The zero point is rounded too, which may cost the ends of the range another half step.
    assert (off <= step[..., None] * 1.001).all()
    assert np.median(off / step[..., None]) < 0.3


def test_rounding_by_the_gram_matrix_loses_less_of_the_product():
    inputs = correlated_inputs()
    weight = np.random.default_rng(1).standard_normal((64, inputs.shape[1])).astype(np.float32)
    gram, exact = inputs.T @ inputs, inputs @ weight.T

    def lost(approximate):
        return np.abs(inputs @ approximate.T - exact).mean()

    assert lost(restored(blocks(weight, 4, gram), 4)) < 0.7 * lost(restored(blocks(weight, 4), 4))
    plain, fitted = int8_columns(weight), int8_columns(weight, gram)
    assert lost((fitted.values * fitted.scales).T) < 0.7 * lost((plain.values * plain.scales).T)


def test_calibration_brings_int8_nearer_where_a_channel_sticks_out(tmp_path):
    checkpoint = load(make_checkpoint("bert", tmp_path / "checkpoint"))
    for layer in checkpoint.layers:
        layer.attention_norm.gamma[7] *= 40
        layer.intermediate.weight[:, 7] /= 40
    rows = random_rows(120, 40, "bert")
    fp32 = Fp32()
    graph = write_graph(checkpoint, fp32, tmp_path)
    expected = alone(session(graph), rows, 0)
    calibration = calibrate(graph, fp32.inputs_of, random_rows(200, 40, "bert", seed=8), 0, with_gram=True)
    off = {}
    for name, statistics in (("plain", Calibration()), ("calibrated", calibration)):
        with WeightFile(tmp_path / "embeddings.bin") as file:
            quantized = write_graph(checkpoint, Int8(SharedEmbeddings(file), statistics), tmp_path)
        off[name] = np.abs(alone(session(quantized), rows, 0) - expected).mean()
    assert off["calibrated"] < 0.7 * off["plain"], off


@pytest.mark.parametrize("kind", [Int8, Int4])
def test_wide_products_have_eight_bits_and_no_neighbours_either(tmp_path, kind):
    checkpoint = load(make_checkpoint("roberta", tmp_path / "checkpoint"))
    with WeightFile(tmp_path / "embeddings.bin") as file:
        wide = re.compile(r"layer1\.(output|intermediate)")
        graph = write_graph(checkpoint, kind(SharedEmbeddings(file), Calibration(), wide), tmp_path)
    eight_bits = {
        node.name.split(".weight")[0]
        for node in onnx.load(graph, load_external_data=False).graph.node
        if any(attribute.name == "bits" and attribute.i == 8 for attribute in node.attribute)
    }
    assert eight_bits == {"layer1.output", "layer1.intermediate"}
    rows = random_rows(150, 60, "roberta")
    runner = session(graph)
    assert differing(runner, rows, alone(runner, rows, 1), 1) == []


def test_bfloat16_is_the_upper_half_of_float32(tmp_path):
    numbers = np.array([1.0, -2.5, 3.140625, 0.0], np.float32)
    body = (numbers.view(np.uint32) >> 16).astype("<u2").tobytes()
    header = json.dumps({"x": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, len(body)]}}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + body)
    assert read_safetensors(path)["x"].tolist() == numbers.reshape(2, 2).tolist()
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CheckpointError, match=r"x ends after the end of the file"):
        read_safetensors(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "deberta-v2"}, "model_type 'deberta-v2' is not supported"),
        ({"hidden_act": "relu"}, "hidden_act 'relu' is not supported, 'gelu' is"),
        ({"id2label": {"0": "joy"}}, "names 1 labels but the classifier has 6 outputs"),
        ({"num_hidden_layers": 4}, "has no tensor bert.encoder.layer.3"),
    ],
)
def test_a_checkpoint_that_cannot_be_exported_is_refused_in_words(tmp_path, change, said):
    folder = make_checkpoint("bert", tmp_path / "checkpoint")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(CheckpointError, match=re.escape(said)):
        load(folder)


def test_a_card_keeps_its_evaluation_only_for_the_same_files(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(f"# old\n\n{card.OPEN}\n| macro-F1 | 0.5 |\n{card.CLOSE}\n")
    config = {
        "id2label": {"0": "joy"}, "model_type": "bert", "num_hidden_layers": 1, "hidden_size": 8,
        "problem_type": "single_label_classification",
        "emotion_server": {"name": "n", "role": "light", "source": "s", "max_length": 9, "files": {}, "precisions": {}},
    }  # fmt: skip

    class Request:
        output, notes, wide, calibration_texts = tmp_path, "", {}, ()

    card.write_card(Request, config, {}, keep_evaluation=True)
    assert f"{card.OPEN}\n| macro-F1 | 0.5 |\n{card.CLOSE}" in path.read_text()
    card.write_card(Request, config, {}, keep_evaluation=False)
    assert f"{card.OPEN}\n{card.CLOSE}" in path.read_text()
