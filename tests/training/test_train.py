"""train.py as it is called: both tasks, resuming, and what wrong calls are told."""

import json

import pytest
from safetensors.numpy import load_file

from train import command

from .conftest import LABELS, call

COMMON = ["--epochs", "2", "--batch-size", "8", "--learning-rate", "1e-3", "--max-length", "16", "--threads", "1"]


def train(*arguments):
    return call(command, arguments)


def trained(*arguments):
    run = train(*arguments)
    assert run.returncode == 0, run.stderr[-3000:]
    return run


@pytest.fixture(scope="module")
def ekman(tmp_path_factory, tiny_bert, data_dir, teacher_logits):
    """The arguments of a short ekman training, and the folder where it ran without a stop."""
    arguments = ["--task", "ekman", "--base", tiny_bert, "--data", data_dir, *COMMON]
    arguments += ["--teacher-logits", teacher_logits]
    out = tmp_path_factory.mktemp("ekman") / "out"
    trained(*arguments, "--out", out)
    return arguments, out


def test_the_light_model_is_a_seven_label_single_label_checkpoint(ekman):
    _, out = ekman
    config = json.loads((out / "config.json").read_text())
    assert config["problem_type"] == "single_label_classification"
    assert list(config["id2label"].values()) == "anger disgust fear joy neutral sadness surprise".split()
    tokenizer = json.loads((out / "tokenizer.json").read_text())
    assert tokenizer["truncation"] is None and tokenizer["padding"] is None
    scores = json.loads((out / "scores.json").read_text())
    assert "accuracy" in scores["protocol"] and 0 <= scores["test_macro_f1"] <= 1 and 0 <= scores["dev_accuracy"] <= 1
    assert [epoch["epoch"] for epoch in scores["training"]["history"]] == [1, 2]
    assert sorted(path.name for path in out.iterdir()) == [
        "config.json", "model.safetensors", "scores.json", "tokenizer.json",
    ]


@pytest.mark.parametrize("stop_after", [4, 6, 9], ids=["within an epoch", "at its end", "in the second"])
def test_a_resumed_training_ends_with_the_weights_of_one_without_a_stop(ekman, tmp_path, stop_after):
    arguments, uninterrupted = ekman
    out = tmp_path / "out"
    stopped = trained(*arguments, "--out", out, "--stop-after", stop_after)
    assert f"stopped after step {stop_after} of 12" in stopped.stdout
    assert not (out / "scores.json").exists()
    trained(*arguments, "--out", out, "--resume")
    expected = load_file(uninterrupted / "model.safetensors")
    found = load_file(out / "model.safetensors")
    assert expected.keys() == found.keys()
    for name, weights in expected.items():
        assert (weights == found[name]).all(), name
    assert json.loads((out / "scores.json").read_text()) == json.loads((uninterrupted / "scores.json").read_text())


def test_training_changes_all_but_the_word_embeddings(ekman, tiny_bert):
    _, out = ekman
    before, after = load_file(tiny_bert / "model.safetensors"), load_file(out / "model.safetensors")
    unchanged = [name for name, weights in before.items() if (weights == after[f"bert.{name}"]).all()]
    assert unchanged == ["embeddings.word_embeddings.weight"]


def test_the_heavy_model_learns_and_tunes_a_threshold_for_each_label(tmp_path, tiny_bert, data_dir):
    out = tmp_path / "out"
    trained(
        "--task", "goemotions", "--base", tiny_bert, "--data", data_dir, "--out", out, *COMMON, "--epochs", 60,
        "--learning-rate", "2e-3", "--head-learning-rate", "5e-3", "--train-word-embeddings", "--float32",
    )
    scores = json.loads((out / "scores.json").read_text())
    assert list(scores["thresholds"]) == LABELS
    history = scores["training"]["history"]
    assert history[-1]["train_loss"] < 0.5 * history[0]["train_loss"]
    # The dev rows are training rows here, so that learning shows.
    assert scores["dev_micro_f1_tuned"] > 0.8
    assert json.loads((out / "config.json").read_text())["problem_type"] == "multi_label_classification"


def test_resuming_with_other_settings_names_the_setting(ekman, tmp_path):
    arguments, _ = ekman
    out = tmp_path / "out"
    trained(*arguments, "--out", out, "--stop-after", 1)
    run = train(*arguments, "--out", out, "--resume", "--seed", 8)
    assert run.returncode == 1 and "seed was 7, is 8" in run.stderr
    run = train(*arguments, "--out", out)
    assert run.returncode == 1 and "add --resume" in run.stderr


def test_wrong_calls_say_what_would_be_right(tmp_path, tiny_bert, data_dir, teacher_logits):
    good = {"--task": "ekman", "--base": tiny_bert, "--data": data_dir, "--out": tmp_path / "out"}
    for changed, said in [
        ({"--base": tmp_path}, "holds no config.json"),
        ({"--base": tmp_path / "none"}, "is no folder here, and as a hub id it could not be downloaded"),
        ({"--data": tmp_path}, "labels.txt is missing"),
        ({"--resume": None}, "to resume: leave --resume out"),
        ({"--max-length": 41}, "over the 40 tokens"),
        ({"--epochs": 0}, "--epochs is 0, expected 1 or more"),
        ({"--task": "goemotions", "--teacher-logits": teacher_logits}, "--teacher-logits is for --task ekman"),
        ({"--teacher-logits": data_dir / "dev.tsv"}, "cannot read teacher logits"),
        ({"--teacher-logits": teacher_logits, "--teacher-weight": 2}, "teacher weight of 2.0 is outside 0 to 1"),
    ]:
        wrong = [part for pair in {**good, **changed}.items() for part in pair if part is not None]
        run = train(*wrong)
        assert run.returncode != 0 and said in run.stderr, (changed, run.stderr[-500:])
