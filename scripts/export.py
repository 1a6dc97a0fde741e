#!/usr/bin/env python3
"""
Exports a fine-tuned emotion classifier to a bundle that the server loads.

    export.py CHECKPOINT --role heavy --output onnx/NAME [--thresholds scores.json] [--calibration texts.tsv]
    export.py owner/name --role light --output onnx/NAME

A checkpoint is a folder with config.json, model.safetensors and tokenizer.json, or a model of the Hugging Face hub
(HF_ENDPOINT names another hub). Architectures: bert, mpnet, roberta (so distilroberta too).
"""

import argparse
import json
import os
import random
import re
import sys
import tempfile
from pathlib import Path

from emotion_export.bundle import KINDS, Request, write_bundle
from emotion_export.checkpoint import CheckpointError
from emotion_export.source import find

# Enough tokens to tell how thousands of inputs go together; more change little and take minutes.
CALIBRATION_TEXTS = 1500


def arguments(argv):
    parser = argparse.ArgumentParser(
        description=__doc__.strip().split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("source", help="folder of a checkpoint, or a hub id such as owner/name")
    parser.add_argument("--output", required=True, type=Path, help="folder of the bundle")
    parser.add_argument("--role", required=True, choices=("heavy", "light"), help="what the server uses it for")
    parser.add_argument("--name", help="name of the model; the output folder's otherwise")
    parser.add_argument("--thresholds", type=Path, help="JSON: a threshold for each label, alone or as `thresholds`")
    parser.add_argument("--precisions", default="int8,int4", help="which of int8 and int4 to write")
    parser.add_argument("--fp32", type=Path, help="keep the fp32 graph in this folder (evaluate.py reads it)")
    parser.add_argument("--calibration", type=Path, help="text file, or TSV with texts first: rounds with less loss")
    parser.add_argument(
        "--wide", action="append", default=[], metavar="PRECISION=REGEX",
        help="keep 8 bits in blocks for matrix products of these names, such as layer0.output",
    )  # fmt: skip
    parser.add_argument("--notes", type=Path, help="Markdown for the model card: base model, data, licence")
    chosen = parser.parse_args(argv)
    chosen.precisions = chosen.precisions.split(",")
    for name in chosen.precisions:
        if name not in KINDS:
            parser.error(f"--precisions: {name!r} is not one of {', '.join(KINDS)}")
    wide = {}
    for entry in chosen.wide:
        name, _, pattern = entry.partition("=")
        if name not in KINDS or not pattern:
            parser.error(f"--wide: {entry!r} is not PRECISION=REGEX with one of {', '.join(KINDS)}")
        try:
            wide[name] = re.compile(pattern)
        except re.error as error:
            parser.error(f"--wide: {pattern!r} is not a regular expression: {error}")
    chosen.wide = wide
    return chosen


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error


def read_thresholds(path: Path) -> dict[str, float]:
    try:
        found = json.loads(read_text(path))
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    found = found.get("thresholds", found) if isinstance(found, dict) else found
    if not isinstance(found, dict) or not all(isinstance(value, float | int) for value in found.values()):
        raise CheckpointError(f"{path} holds no thresholds: expected an object of label and number")
    return found


def calibration_texts(path: Path) -> list[str]:
    """A fixed random choice of the file's texts."""
    texts = [line.split("\t")[0] for line in read_text(path).split("\n") if line.strip()]
    if not texts:
        raise CheckpointError(f"{path} holds no texts: expected one a line")
    return random.Random(7).sample(texts, min(CALIBRATION_TEXTS, len(texts)))


def summary(config: dict, differences: dict) -> str:
    """Sizes, memory and the difference to fp32, a row for each precision."""
    section = config["emotion_server"]
    header = ("precision", "files MB", "prepared: own MB", "mapped MB", "plain: own MB", "logits off: mean", "greatest")
    rows = [header]
    shared = section["files"]["embeddings.bin"]["bytes"]
    for name, part in section["precisions"].items():
        size = shared + sum(section["files"][f"{name}.{kind}"]["bytes"] for kind in ("onnx", "bin"))
        prepared, plain = part["memory"]["prepared"], part["memory"]["plain"]
        figures = (size, prepared["first_session_bytes"], prepared["mapped_bytes"], plain["first_session_bytes"])
        off = differences[name]
        rows.append((name, *(f"{figure / 1e6:.1f}" for figure in figures), f"{off.mean:.4f}", f"{off.greatest:.4f}"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def main(argv=None) -> int:
    chosen = arguments(argv)
    try:
        with tempfile.TemporaryDirectory(prefix="export-") as scratch:
            request = Request(
                source=find(chosen.source),
                output=chosen.output,
                name=chosen.name or chosen.output.resolve().name,
                role=chosen.role,
                precisions=chosen.precisions,
                fp32_folder=chosen.fp32 or Path(scratch),
                thresholds=read_thresholds(chosen.thresholds) if chosen.thresholds else None,
                calibration_texts=calibration_texts(chosen.calibration) if chosen.calibration else [],
                wide=chosen.wide,
                notes=read_text(chosen.notes) if chosen.notes else "",
            )
            config, differences = write_bundle(request, say=lambda text: print(f"{text} …", file=sys.stderr))
    except CheckpointError as error:
        print(f"export.py: {error}", file=sys.stderr)
        return 1
    print(summary(config, differences))
    print(f"{chosen.output}: {', '.join(sorted(os.listdir(chosen.output)))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
