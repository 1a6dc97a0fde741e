#!/usr/bin/env python3
"""
Scores a checkpoint, or a bundle's precisions side by side, on GoEmotions-format TSV files.

    evaluate.py CHECKPOINT --data DIR
    evaluate.py onnx/goemotions --data DIR --checkpoint CHECKPOINT --check --write-card

A folder whose config.json has the key "emotion_server" is a bundle: its int8 and int4 graphs run in ONNX
Runtime. With --checkpoint (run by transformers in float32) or --fp32 (a plain ONNX graph) there is a reference:
decisions flipped against it are counted on dev, the difference in macro-F1 is taken on the reported split.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emotion_training import encoding, goemotions, report, scoring

# How far the reference may be from the logits kept in a bundle, made from the same weights by other kernels.
PROBE_TOLERANCE = 0.01

# What quantization may cost: macro-F1 lost on the reported split, share of dev decisions flipped.
BOUNDS = {"int8": (0.005, 0.005), "int4": (0.015, 0.01)}


def arguments(argv):
    parser = argparse.ArgumentParser(
        description=__doc__.strip().split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("model", type=Path, help="checkpoint folder or bundle folder")
    parser.add_argument("--data", required=True, type=Path, help="folder of labels.txt, dev.tsv and test.tsv")
    parser.add_argument("--split", default="test", help="the split to report: its .tsv in the data folder")
    reference = parser.add_mutually_exclusive_group()
    reference.add_argument("--checkpoint", type=Path, help="bundle: the fp32 checkpoint it was exported from")
    reference.add_argument("--fp32", type=Path, help="bundle: a plain fp32 ONNX graph of it (export.py --fp32)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="texts run on so many threads")
    parser.add_argument("--max-length", type=int, help="tokens a text; the model's own limit otherwise")
    parser.add_argument("--check", action="store_true", help="exit 1 if int8 or int4 loses more than it may")
    parser.add_argument("--write-card", action="store_true", help="bundle: put the tables into its README.md")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    chosen = parser.parse_args(argv)
    if chosen.threads < 1 or (chosen.max_length is not None and chosen.max_length < 3):
        parser.error("--threads must be 1 or more, --max-length 3 or more")
    return chosen


@dataclass
class Model:
    """A folder to evaluate: its labels, task and thresholds, whichever way it runs."""

    folder: Path
    config: dict

    @classmethod
    def open(cls, folder):
        """Reads config.json; raises BadData where it is no sequence classifier's."""
        path = folder / "config.json"
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise goemotions.BadData(f"cannot read {path}: expected a checkpoint or bundle folder") from error
        except ValueError as error:
            raise goemotions.BadData(f"{path} is not JSON: {error}") from error
        kinds = ("multi_label_classification", "single_label_classification")
        if config.get("problem_type") not in kinds or "id2label" not in config:
            raise goemotions.BadData(f"{path}: expected id2label, and a problem_type of {' or '.join(kinds)}")
        return cls(folder, config)

    @property
    def bundle(self):
        """The bundle's own part of config.json; None for a checkpoint."""
        return self.config.get("emotion_server")

    @property
    def labels(self):
        """Label names in the order of the logits."""
        id2label = self.config["id2label"]
        return [id2label[str(index)] for index in range(len(id2label))]

    @property
    def multi_label(self):
        """Whether a text may have several labels."""
        return self.config["problem_type"] == "multi_label_classification"

    @property
    def max_length(self):
        """Tokens the model can read."""
        if self.bundle:
            return self.bundle["max_length"]
        return encoding.readable_tokens(
            *(self.config[key] for key in ("model_type", "max_position_embeddings", "pad_token_id"))
        )

    def read(self, data_dir, split):
        """A split with gold in the order of this model's labels, which name GoEmotions labels or Ekman groups."""
        file_labels = goemotions.read_labels(data_dir)
        rows = goemotions.read_split(data_dir, split, file_labels)
        if sorted(self.labels) == sorted(goemotions.EKMAN_LABELS):
            rows, file_labels = goemotions.to_ekman(rows, file_labels), list(goemotions.EKMAN_LABELS)
        if sorted(self.labels) != sorted(file_labels):
            raise goemotions.BadData(
                f"{self.folder} has the labels {', '.join(self.labels)}; {data_dir}/labels.txt has others, "
                "and they are not the Ekman groups either"
            )
        return goemotions.Split(rows.texts, rows.gold[:, [file_labels.index(label) for label in self.labels]])


def run_checkpoint(folder, encoded):
    """fp32 logits by transformers; torch is needed for this alone."""
    from emotion_training import checkpoint

    model = checkpoint.load(checkpoint.locate(folder))
    return {name: checkpoint.predict(model, rows) for name, rows in encoded.items()}


def run_graph(path, pad_token_id, encoded, threads):
    """Logits by ONNX Runtime."""
    from emotion_training.onnx_graph import Graph

    graph = Graph(path, pad_token_id)
    return {name: graph.predict(rows, threads) for name, rows in encoded.items()}


def check_reference(model, run):
    """Refuses a reference that is not what the bundle was made from: it must give the bundle's probe logits."""
    probes = model.bundle["probes"]
    tokenizer = encoding.load_tokenizer(model.folder)
    texts = encoding.encode(tokenizer, [probe["text"] for probe in probes], model.max_length)
    expected = np.array([probe["logits"] for probe in probes])
    found = run({"probes": texts})["probes"]
    if found.shape != expected.shape:
        raise goemotions.BadData(f"the fp32 reference gives {found.shape[1]} logits, the bundle {expected.shape[1]}")
    difference = np.abs(found - expected).max()
    if difference > PROBE_TOLERANCE:
        raise goemotions.BadData(
            f"the fp32 reference is {difference:.2f} off the probe logits in {model.folder}/config.json (at most "
            f"{PROBE_TOLERANCE} is rounding): the bundle was made from other weights, export it again"
        )


def run_all(chosen, model, encoded):
    """Logits of each column (fp32, int8, int4) on each split."""
    runs = {}
    if model.bundle is None:
        runs["fp32"] = lambda texts: run_checkpoint(chosen.model, texts)
    else:
        pad_token_id = model.config["pad_token_id"]
        if chosen.checkpoint:
            runs["fp32"] = lambda texts: run_checkpoint(chosen.checkpoint, texts)
        elif chosen.fp32:
            runs["fp32"] = lambda texts: run_graph(chosen.fp32, pad_token_id, texts, chosen.threads)
        if runs:
            check_reference(model, runs["fp32"])
        for precision, part in model.bundle["precisions"].items():
            path = chosen.model / part["graph"]
            runs[precision] = lambda texts, path=path: run_graph(path, pad_token_id, texts, chosen.threads)
    logits = {}
    for name, run in runs.items():
        started = time.monotonic()
        logits[name] = run(encoded)
        for values in logits[name].values():
            if values.shape[1] != len(model.labels):
                raise goemotions.BadData(f"{name} gives {values.shape[1]} logits, id2label names {len(model.labels)}")
        texts = sum(len(rows) for rows in encoded.values())
        print(f"{name}: {texts} texts in {time.monotonic() - started:.1f} s", file=sys.stderr)
    return logits


def thresholds_of(model, dev_logits, dev):
    """The thresholds to judge at, and in words where they come from."""
    if not model.multi_label:
        return None, "the label is the argmax; gold is the set of Ekman groups of the row's labels"
    if model.bundle:
        thresholds = [model.bundle["thresholds"][label] for label in model.labels]
        return thresholds, "the bundle's per-label thresholds, the same for every column (tuned on dev by train.py)"
    thresholds = scoring.tune_thresholds(dev_logits["fp32"]["dev"], dev.gold)
    return thresholds, "per-label thresholds that maximise F1 on dev, step 0.01"


def decide(model, logits, thresholds):
    """bool [rows, labels]: what the model claims."""
    return scoring.decide_multi_label(logits, thresholds) if model.multi_label else scoring.decide_single_label(logits)


def measure(chosen, model, logits, splits, thresholds):
    """Scores on the reported split for each column, and what each loses against fp32."""
    gold = splits[chosen.split].gold
    scores = {
        name: scoring.score(decide(model, values[chosen.split], thresholds), gold) for name, values in logits.items()
    }
    losses = {}
    if "fp32" in logits:
        reference = decide(model, logits["fp32"]["dev"], thresholds)
        for name in logits:
            if name == "fp32":
                continue
            differences = np.abs(logits[name]["dev"] - logits["fp32"]["dev"])
            losses[name] = {
                "dev_flipped": scoring.flipped_share(
                    decide(model, logits[name]["dev"], thresholds), reference, model.multi_label
                ),
                "macro_f1_difference": scores[name].macro_f1 - scores["fp32"].macro_f1,
                "dev_mean_logit_error": float(differences.mean()),
                "dev_max_logit_error": float(differences.max()),
            }
    return scores, losses


def tables(chosen, model, protocol, logits, splits, scores, losses, thresholds):
    """The whole report in Markdown."""
    names = list(scores)
    gold = splits[chosen.split].gold
    rows = [("macro-F1", [f"{scores[name].macro_f1:.4f}" for name in names])]
    rows.append(("micro-F1", [f"{scores[name].micro_f1:.4f}" for name in names]))
    if model.multi_label:
        rows.append(("exact match", [f"{scores[name].exact_match:.4f}" for name in names]))
        half = [0.5] * len(model.labels)
        at_half = (scoring.score(decide(model, logits[name][chosen.split], half), gold) for name in names)
        rows.append(("macro-F1 at 0.5", [f"{found.macro_f1:.4f}" for found in at_half]))
    else:
        rows.append(("accuracy (argmax in the gold set)", [f"{scores[name].accuracy:.4f}" for name in names]))
        exact = [f"{scores[name].exact_match:.4f}" for name in names]
        rows.append(("exact match (gold set is the argmax alone)", exact))
    if losses:
        measures = (
            ("macro-F1 against fp32", "macro_f1_difference", "{:+.4f}"),
            ("dev decisions flipped", "dev_flipped", "{:.2%}"),
            ("dev logit error, mean", "dev_mean_logit_error", "{:.3f}"),
            ("dev logit error, greatest", "dev_max_logit_error", "{:.3f}"),
        )
        for title, key, shape in measures:
            rows.append((title, [shape.format(losses[name][key]) if name in losses else "" for name in names]))
    decision = "one text and label at the label's threshold" if model.multi_label else "the argmax of a text"
    parts = [
        f"Split `{chosen.split}`, {len(splits[chosen.split])} texts. Protocol: {protocol}. "
        f"Dev, {len(splits['dev'])} texts, is for what was tuned and for flips; a decision is {decision}.",
        report.summary_table(names, rows),
        f"Per label (precision, recall and F1 of {names[0]}):",
        report.label_table(
            model.labels, scores[names[0]], {name: scores[name].f1 for name in names[1:]}, thresholds
        ),
    ]
    return "\n\n".join(parts)


def misses(losses):
    """What breaks a bound, in words."""
    found = []
    for name, (macro_f1_bound, flipped_bound) in BOUNDS.items():
        if name not in losses:
            found.append(f"{name}: not in this bundle")
            continue
        if losses[name]["macro_f1_difference"] < -macro_f1_bound:
            difference = losses[name]["macro_f1_difference"]
            found.append(f"{name}: macro-F1 {difference:+.4f} against fp32, at most -{macro_f1_bound} is allowed")
        if losses[name]["dev_flipped"] > flipped_bound:
            flipped = losses[name]["dev_flipped"]
            found.append(f"{name}: {flipped:.2%} of dev decisions flipped, at most {flipped_bound:.1%} is allowed")
    return found


def main(argv=None):
    chosen = arguments(argv)
    model = Model.open(chosen.model)
    reference = chosen.checkpoint or chosen.fp32
    if model.bundle is None and (reference or chosen.check or chosen.write_card):
        raise goemotions.BadData(f"{chosen.model} is a checkpoint: --checkpoint, --fp32, --check and --write-card "
                                 "are for a bundle")
    if chosen.check and not reference:
        raise goemotions.BadData("--check compares with fp32: add --checkpoint or --fp32")
    if chosen.checkpoint and Model.open(chosen.checkpoint).labels != model.labels:
        raise goemotions.BadData(f"{chosen.checkpoint} and {chosen.model} differ in their labels")
    splits = {name: model.read(chosen.data, name) for name in dict.fromkeys(("dev", chosen.split))}
    tokenizer = encoding.load_tokenizer(chosen.model)
    length = min(chosen.max_length or model.max_length, model.max_length)
    encoded = {name: encoding.encode(tokenizer, split.texts, length) for name, split in splits.items()}
    logits = run_all(chosen, model, encoded)
    thresholds, protocol = thresholds_of(model, logits, splits["dev"])
    scores, losses = measure(chosen, model, logits, splits, thresholds)
    text = tables(chosen, model, protocol, logits, splits, scores, losses, thresholds)
    print(text)
    if chosen.write_card:
        report.write_into_card(chosen.model / "README.md", text)
    if chosen.json:
        write_json(chosen, protocol, scores, losses)
    missed = misses(losses) if chosen.check else []
    for line in missed:
        print(f"bound missed: {line}", file=sys.stderr)
    return 1 if missed else 0


def write_json(chosen, protocol, scores, losses):
    """The figures for other programs to read."""
    found = {"model": chosen.model.name, "split": chosen.split, "protocol": protocol, "columns": {}}
    for name, column in scores.items():
        found["columns"][name] = {
            "macro_f1": column.macro_f1, "micro_f1": column.micro_f1, "exact_match": column.exact_match,
            "accuracy": column.accuracy, **losses.get(name, {}),
        }
    chosen.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def command(argv=None):
    """Exit code of a call: 1 says only that a bound was missed, 2 that the call or its files are wrong."""
    try:
        return main(argv)
    except goemotions.BadData as error:
        print(f"evaluate.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(command())
