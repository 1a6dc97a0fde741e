"""Writes a bundle: graphs, weights, tokenizer, config with probes and measured memory, model card."""

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from . import card, measure
from .calibrate import SENTENCES, Calibration, calibrate
from .checkpoint import Checkpoint, CheckpointError, load
from .graph import write_graph
from .precision import NOTHING, Fp32, Int4, Int8, SharedEmbeddings
from .run import Classifier
from .source import Source
from .tokenizer import server_tokenizer
from .weights import WeightFile

FORMAT = 1
KINDS = {kind.name: kind for kind in (Int8, Int4)}
# What hosts of git repositories take.
LARGEST_FILE_BYTES = 95_000_000
LEAST_TOLERANCE = 0.02
# Texts whose logits a server checks before it trusts a model it has loaded.
PROBE_TEXTS = (
    "I am so happy",
    "This is the worst service I have ever had, and nobody even said sorry.",
    "Thank you so much for staying late to help me! 😊🎉",
    "Wait, are you telling me that the train left an hour before it was supposed to?",
    "The meeting starts at nine.",
    "When I heard that my grandmother was in hospital I drove all night through the rain, afraid that I would come "
    "too late, and when I finally opened the door she was sitting up in bed, laughing with the nurse, and asked me "
    "why on earth I had not slept; I did not know whether to cry or to laugh.",
)


@dataclass
class Request:
    """What to export, and as what."""

    source: Source
    output: Path
    name: str
    role: str
    precisions: list[str]
    fp32_folder: Path
    thresholds: dict[str, float] | None = None
    # Texts of the model's own kind; the built-in sentences when empty.
    calibration_texts: list[str] = field(default_factory=list)
    # By precision, the products that keep more bits.
    wide: dict[str, re.Pattern] = field(default_factory=dict)
    # Sentences for the model card.
    notes: str = ""


@dataclass
class Difference:
    """How far a precision's logits are from fp32 on the probe texts."""

    mean: float
    greatest: float


def write_bundle(request: Request, say=lambda text: None) -> tuple[dict, dict[str, Difference]]:
    """Writes the bundle, replacing an earlier one file by file; returns its config and what quantization changed."""
    checkpoint = load(request.source.folder)
    checkpoint.config.setdefault("problem_type", "single_label_classification")
    thresholds = _thresholds(checkpoint, request.thresholds)
    tokenizer, max_length = server_tokenizer(request.source.folder, checkpoint)
    for folder in (request.output, request.fp32_folder):
        folder.mkdir(parents=True, exist_ok=True)
    earlier = card.earlier_files(request.output)
    tokenizer.save(str(request.output / "tokenizer.json"))

    say("writing the fp32 graph")
    fp32 = Fp32()
    reference = Classifier(write_graph(checkpoint, fp32, request.fp32_folder), tokenizer, max_length, checkpoint)
    expected = reference.each(PROBE_TEXTS)
    say("calibrating")
    calibration = _calibration(request, fp32, reference)
    names = ["tokenizer.json", "embeddings.bin"]
    graphs = {}
    with WeightFile(request.output / "embeddings.bin") as embeddings_file:
        embeddings = SharedEmbeddings(embeddings_file)
        for name in request.precisions:
            say(f"quantizing to {name}")
            precision = KINDS[name](embeddings, calibration, request.wide.get(name, NOTHING))
            graphs[name] = write_graph(checkpoint, precision, request.output)
            names += [f"{name}.onnx", f"{name}.bin"]
    precisions, differences = {}, {}
    for name, graph in graphs.items():
        say(f"measuring the memory of {name}")
        off = np.abs(Classifier(graph, tokenizer, max_length, checkpoint).each(PROBE_TEXTS) - expected)
        differences[name] = Difference(float(off.mean()), float(off.max()))
        precisions[name] = {
            "graph": graph.name,
            "probe_tolerance": round(max(2 * differences[name].greatest, LEAST_TOLERANCE), 4),
            **measure.memory_need(graph, checkpoint.config["num_attention_heads"], max_length),
        }
    config = dict(checkpoint.config)
    config["emotion_server"] = {
        "format": FORMAT,
        "name": request.name,
        "role": request.role,
        "source": request.source.described,
        "max_length": max_length,
        **({"thresholds": thresholds} if thresholds else {}),
        "probes": [
            {"text": text, "logits": [round(float(logit), 5) for logit in logits]}
            for text, logits in zip(PROBE_TEXTS, expected, strict=True)
        ],
        "precisions": precisions,
        "files": {name: _described(request.output / name) for name in names},
    }
    text = json.dumps(config, indent=2, ensure_ascii=False)
    (request.output / "config.json").write_text(text + "\n", encoding="utf-8")
    card.write_card(request, config, differences, keep_evaluation=earlier == config["emotion_server"]["files"])
    return config, differences


def _calibration(request: Request, fp32: Fp32, reference: Classifier) -> Calibration:
    texts = request.calibration_texts or SENTENCES
    rows = [reference.token_ids(text) for text in texts]
    with_gram = bool(request.calibration_texts)
    return calibrate(reference.graph, fp32.inputs_of, rows, reference.pad_id, with_gram)


def _thresholds(checkpoint: Checkpoint, given: dict[str, float] | None) -> dict[str, float] | None:
    """Every label's threshold in the order of the labels; None for a model that picks one label."""
    if checkpoint.config["problem_type"] != "multi_label_classification":
        if given:
            raise CheckpointError("thresholds are for multi-label models; this one answers with its highest score")
        return None
    if given is None:
        return dict.fromkeys(checkpoint.labels, 0.5)
    unknown, missing = set(given) - set(checkpoint.labels), set(checkpoint.labels) - set(given)
    if unknown or missing:
        raise CheckpointError(
            f"thresholds must name exactly the labels of the model; unknown: {sorted(unknown)}, "
            f"missing: {sorted(missing)}"
        )
    return {label: float(given[label]) for label in checkpoint.labels}


def _described(path: Path) -> dict:
    size = path.stat().st_size
    if size > LARGEST_FILE_BYTES:
        raise CheckpointError(f"{path} has {size:,} bytes, a bundle's file at most {LARGEST_FILE_BYTES:,}")
    with path.open("rb") as file:
        return {"bytes": size, "sha256": hashlib.sha256(file.read()).hexdigest()}
