"""evaluate.py on a tiny checkpoint and on a tiny bundle whose graphs are written by hand."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer

from evaluate import command

from .conftest import LABELS, ROWS, call


def evaluate(*arguments):
    return call(command, arguments)


def word_graph(path, word_logits):
    """Logits = the sum of a row per word of the text, [vocabulary, labels]; padding is masked out."""
    nodes = [
        helper.make_node("Gather", ["word_logits", "input_ids"], ["gathered"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["mask_column"]),
        helper.make_node("Mul", ["gathered", "mask_column"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "middle"], ["logits"], keepdims=0),
    ]
    shape = ["batch", "sequence"]
    graph = helper.make_graph(
        nodes, "words",
        [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in ("input_ids", "attention_mask")],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", word_logits.shape[1]])],
        [
            numpy_helper.from_array(word_logits.astype(np.float32), "word_logits"),
            numpy_helper.from_array(np.array([2]), "last"),
            numpy_helper.from_array(np.array([1]), "middle"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


@pytest.fixture
def bundle(tmp_path, tiny_bert):
    """
    A bundle that knows the training rows by their words: fp32 and int8 agree, int4 has one word turned round.

    Every text's logit is over 0 for its own labels and far below for others; the threshold is 0.5.
    """
    folder = tmp_path / "tiny"
    folder.mkdir()
    tokenizer = Tokenizer.from_file(str(tiny_bert / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.save(str(folder / "tokenizer.json"))
    word_counts = np.zeros((len(ROWS), tokenizer.get_vocab_size()))
    for row, (text, _) in enumerate(ROWS):
        np.add.at(word_counts[row], tokenizer.encode(text).ids, 1.0)
    wanted = np.array([[4.0 if label in labels.split(",") else -4.0 for label in LABELS] for _, labels in ROWS])
    word_logits = np.linalg.pinv(word_counts) @ wanted
    word_graph(folder / "fp32.onnx", word_logits)
    word_graph(folder / "int8.onnx", word_logits)
    turned = word_logits.copy()
    # "soup" stands in the only text of disgust.
    turned[tokenizer.token_to_id("soup")] -= 40.0 * np.eye(28)[LABELS.index("disgust")]
    word_graph(folder / "int4.onnx", turned)
    (folder / "README.md").write_text("# Tiny\n<!-- evaluation -->\nstale\n<!-- /evaluation -->\nend\n")
    config = {
        "model_type": "bert", "pad_token_id": 0, "max_position_embeddings": 40,
        "problem_type": "multi_label_classification", "id2label": {str(i): label for i, label in enumerate(LABELS)},
        "emotion_server": {
            "format": 1, "name": "tiny", "max_length": 40, "thresholds": dict.fromkeys(LABELS, 0.5),
            "probes": [{"text": text, "logits": row.tolist()} for (text, _), row in zip(ROWS, wanted, strict=True)],
            "precisions": {"int8": {"graph": "int8.onnx"}, "int4": {"graph": "int4.onnx"}},
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_bundle_is_compared_with_its_reference_side_by_side(bundle, data_dir, tmp_path):
    figures = tmp_path / "figures.json"
    run = evaluate(
        bundle, "--data", data_dir, "--fp32", bundle / "fp32.onnx", "--json", figures, "--write-card", "--threads", 2
    )
    assert run.returncode == 0, run.stderr
    columns = json.loads(figures.read_text())["columns"]
    assert columns["fp32"]["micro_f1"] == 1.0 and columns["fp32"]["exact_match"] == 1.0
    # A label without a row has the F1 0.
    carried = {label for _, labels in ROWS for label in labels.split(",")}
    assert columns["fp32"]["macro_f1"] == pytest.approx(len(carried) / 28)
    assert columns["int8"]["dev_flipped"] == 0.0 and columns["int8"]["macro_f1_difference"] == 0.0
    # int4 misses disgust in one text: one decision of 12 x 28, and the whole F1 of one label.
    assert columns["int4"]["dev_flipped"] == pytest.approx(1 / (12 * 28))
    assert columns["int4"]["macro_f1_difference"] == pytest.approx(-1 / 28)
    assert "| | fp32 | int8 | int4 |" in run.stdout
    assert "| disgust | 0.50 | 1.000 | 1.000 | 1.000 | 1 | 1.000 | 0.000 |" in run.stdout
    card = (bundle / "README.md").read_text()
    assert card.startswith("# Tiny\n<!-- evaluation -->\n") and card.endswith("\n<!-- /evaluation -->\nend\n")
    assert "stale" not in card and "| dev decisions flipped |  | 0.00% | 0.30% |" in card


def test_check_fails_for_the_precision_that_misses_its_bound(bundle, data_dir):
    run = evaluate(bundle, "--data", data_dir, "--fp32", bundle / "fp32.onnx", "--check")
    assert run.returncode == 1
    assert "bound missed: int4: macro-F1 -0.0357 against fp32, at most -0.015 is allowed" in run.stderr
    assert "bound missed: int8" not in run.stderr and "decisions flipped, at most" not in run.stderr


def test_check_passes_where_nothing_is_lost(bundle, data_dir):
    (bundle / "int4.onnx").write_bytes((bundle / "int8.onnx").read_bytes())
    run = evaluate(bundle, "--data", data_dir, "--fp32", bundle / "fp32.onnx", "--check")
    assert run.returncode == 0, run.stderr


def test_a_checkpoint_is_scored_in_float32(tiny_bert, data_dir, tmp_path):
    import torch
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(1)
    labels = ["joy", "anger", "disgust", "fear", "neutral", "sadness", "surprise"]
    model = AutoModelForSequenceClassification.from_pretrained(
        tiny_bert, num_labels=7, id2label=dict(enumerate(labels)), problem_type="single_label_classification"
    )
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor([1.0, 0, 0, 0, 0, 0, 0]))
    folder = tmp_path / "always-joy"
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text((tiny_bert / "tokenizer.json").read_text())
    run = evaluate(folder, "--data", data_dir)
    assert run.returncode == 0, run.stderr
    # joy, gratitude, love (with joy, and with sadness) and admiration: 5 of 12 texts hold joy's group. The order
    # of the labels here is the checkpoint's own.
    assert "| accuracy (argmax in the gold set) | 0.4167 |" in run.stdout
    assert "| joy | 0.417 | 1.000 | 0.588 | 5 |" in run.stdout


def test_wrong_calls_say_what_would_be_right(bundle, data_dir, tiny_bert, tmp_path):
    for wrong, said in [
        ([tmp_path / "none"], "expected a checkpoint or bundle folder"),
        ([tiny_bert], "expected id2label, and a problem_type"),
        ([bundle, "--check"], "--check compares with fp32: add --checkpoint or --fp32"),
        ([bundle, "--fp32", tmp_path / "none.onnx"], "none.onnx is missing"),
        ([bundle, "--fp32", bundle / "README.md"], "ONNX Runtime cannot load"),
        ([bundle, "--split", "train2"], "train2.tsv is missing"),
    ]:
        run = evaluate(*wrong, "--data", data_dir)
        assert run.returncode == 2 and said in run.stderr, (wrong, run.stderr[-500:])


def test_a_reference_that_the_bundle_was_not_made_from_is_refused(bundle, data_dir):
    run = evaluate(bundle, "--data", data_dir, "--fp32", bundle / "int4.onnx")
    assert run.returncode == 2
    assert "40.00 off the probe logits" in run.stderr and "made from other weights" in run.stderr


def test_a_card_without_a_place_for_the_tables_is_refused(bundle, data_dir):
    (bundle / "README.md").write_text("# Tiny\n")
    run = evaluate(bundle, "--data", data_dir, "--write-card")
    assert run.returncode == 2 and "has no lines <!-- evaluation -->" in run.stderr
    assert (bundle / "README.md").read_text() == "# Tiny\n"
