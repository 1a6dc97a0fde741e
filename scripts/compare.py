#!/usr/bin/env python3
"""
Compares this server with Python services of the same weights, on the same texts, one after the other.

    compare.py CHECKPOINT [--data DIR] [--seconds 10] [--only heavy transformers] [--json FILE]

CHECKPOINT is the folder that the heavy model was exported from. Measured are the heavy and the light model (int8,
the server's defaults, weights prepared ahead of time), FastAPI with ONNX Runtime and the stock dynamic int8 graph,
and FastAPI with transformers in float32. Every server was started once before, so files are in the page cache.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from emotion_measure import machine
from emotion_measure.comparison import (
    CLIENTS,
    MAX_SCORE_DIFFERENCES,
    Contender,
    Texts,
    all_differences,
    measure,
    probe_scores,
    table,
)
from emotion_measure.service import SCRIPTS, ServiceError, python_environment, python_service
from emotion_measure.texts import NoTexts, mixed_text, read_texts

ROOT = SCRIPTS.parent
NAMES = ("heavy", "light", "onnxruntime", "transformers")
# More made-up texts than any server reads in a second of load.
MIXED_TEXTS_PER_SECOND = 3000
PREPARE_SECONDS = 600
PACKAGES = ("fastapi", "uvicorn", "transformers", "torch", "onnxruntime", "tokenizers")


def arguments(argv):
    parser = argparse.ArgumentParser(
        description=__doc__.strip().split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, help="folder that the heavy model was exported from")
    parser.add_argument("--data", type=Path, help="folder of .tsv files with real texts; made-up texts otherwise")
    parser.add_argument("--seconds", type=float, default=10, help="length of each load")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="SERVER",
                        help=f"which of {', '.join(NAMES)}")  # fmt: skip
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    parser.add_argument("--program", type=Path, default=ROOT / "target/release/emotion-server")
    parser.add_argument("--models", type=Path, default=ROOT / "onnx")
    parser.add_argument("--heavy", default="goemotions", help="the model of the checkpoint, a folder of --models")
    parser.add_argument("--library", type=Path, default=ROOT / "lib/libonnxruntime.so")
    parser.add_argument("--python", default=sys.executable, help="Python of the Python services")
    parser.add_argument("--into", type=Path, default=ROOT / "target/compare", help="logs, prepared weights, the graph")
    chosen = parser.parse_args(argv)
    if chosen.seconds <= 0:
        parser.error("--seconds must be above 0")
    for path, what in (
        (chosen.checkpoint / "config.json", "the config.json of a checkpoint"),
        (chosen.program, "the server: build it with cargo build --release --locked"),
        (chosen.library, "the ONNX Runtime library: make setup fetches it"),
        (chosen.models / chosen.heavy, "the heavy model's bundle"),
    ):
        if not path.exists():
            parser.error(f"{path} is missing: {what}")
    return chosen


def run(command: list, environment: dict[str, str], what: str) -> None:
    """A step that must succeed before anything is measured."""
    try:
        subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=PREPARE_SECONDS)
    except subprocess.CalledProcessError as error:
        raise ServiceError(f"{what} failed:\n{error.stderr[-3000:]}") from error
    except subprocess.TimeoutExpired as error:
        raise ServiceError(f"{what} took more than {PREPARE_SECONDS} s") from error


def contenders(chosen) -> list[Contender]:
    """The servers that were asked for, with what they need made ahead of time."""
    ours = {
        "PATH": os.environ["PATH"],
        "MODEL_DIR": str(chosen.models.resolve()),
        "MODEL_CACHE_DIR": str((chosen.into / "prepared").resolve()),
        "ONNXRUNTIME_LIBRARY": str(chosen.library.resolve()),
        "HEAVY_MODEL": chosen.heavy,
    }
    wanted = [name for name in NAMES if name in chosen.only]
    found = []
    if {"heavy", "light"} & set(wanted):
        run([str(chosen.program), "prepare"], ours, "preparing the weights")
    for name in wanted:
        if name in ("heavy", "light"):
            light = {"USE_LIGHT_MODEL": "true"} if name == "light" else {}
            who = "light (use_light_model)" if light else "heavy"
            found.append(Contender(
                name, f"emotion-server, {name} int8",
                lambda port: [str(chosen.program), "serve", "--port", str(port)], ours | light, who,
            ))  # fmt: skip
            continue
        checkpoint = str(chosen.checkpoint.resolve())
        if name == "onnxruntime":
            graph = str((chosen.into / "stock-int8.onnx").resolve())
            command = [chosen.python, "-m", "emotion_measure.stock_graph", checkpoint, graph]
            run(command, python_environment(), "making the stock int8 graph")
            title, command = (
                "FastAPI + ONNX Runtime, stock int8",
                python_service("onnxruntime_service", checkpoint, graph, python=chosen.python),
            )
        else:
            title, command = (
                "FastAPI + transformers, fp32",
                python_service("transformers_service", checkpoint, python=chosen.python),
            )
        found.append(Contender(name, title, command, python_environment(), "model"))
    return found


def main(argv=None) -> int:
    chosen = arguments(argv)
    chosen.into.mkdir(parents=True, exist_ok=True)
    made_up = not chosen.data
    count = int(MIXED_TEXTS_PER_SECOND * len(CLIENTS) * chosen.seconds)
    texts = Texts([mixed_text(number) for number in range(count)] if made_up else read_texts(chosen.data))
    ran_on = machine.described()
    versions = machine.versions(*PACKAGES)
    server = subprocess.run([chosen.program, "--version"], capture_output=True, text=True, check=True, timeout=60)
    figures, scores = {}, {}
    for contender in contenders(chosen):
        print(f"{contender.title} …", file=sys.stderr, flush=True)
        scores[contender.name] = probe_scores(contender, chosen.into / f"{contender.name}-first.log")
        log = chosen.into / f"{contender.name}.log"
        figures[contender.name] = measure(contender, texts, chosen.seconds, log)
    differences = all_differences(scores)
    kind = "made-up texts" if made_up else f"texts of {chosen.data.name}"
    print(f"Machine: {ran_on}.")
    print(f"Versions: {server.stdout.strip()}, " + ", ".join(f"{name} {at}" for name, at in versions.items()) + ".")
    print(f"Texts: {len(texts.texts)} {kind}, none asked twice; {chosen.seconds:g} s for each load.\n")
    print(table(figures, "transformers", differences))
    if chosen.json:
        found = {
            "machine": ran_on, "versions": versions | {"emotion-server": server.stdout.split()[-1]},
            "texts": len(texts.texts), "texts_from": kind, "seconds": chosen.seconds,
            "servers": {name: each.plain() for name, each in figures.items()},
            "score_differences": differences,
        }  # fmt: skip
        chosen.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    troubles = [
        f"{each.title}: {load.failed} requests failed at {clients} clients"
        for each in figures.values() for clients, load in each.loads.items() if load.failed
    ]  # fmt: skip
    troubles += [
        f"{figures[name].title}: a score is {difference:.2f} off the heavy model's, more than "
        f"{MAX_SCORE_DIFFERENCES[name]} cannot be rounding: the heavy model was exported from another checkpoint"
        for name, difference in differences.get("heavy", {}).items() if difference > MAX_SCORE_DIFFERENCES[name]
    ]  # fmt: skip
    for trouble in troubles:
        print(trouble, file=sys.stderr)
    return 1 if troubles else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ServiceError, NoTexts) as error:
        sys.exit(f"compare.py: {error}")
