"""The model card of a bundle."""

import json
from pathlib import Path

# Between these, evaluate.py puts its tables.
OPEN, CLOSE = "<!-- evaluation -->", "<!-- /evaluation -->"

HOW = {
    "int8": "int8 weights with a scale a column, activations in uint8 with a scale a token",
    "int4": "int4 weights in blocks of 32 with a scale and a zero point each, activations in int8 by block",
}


def earlier_files(folder: Path) -> dict | None:
    """The `files` of the bundle that is in `folder` now, None if there is none."""
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))["emotion_server"]["files"]
    except (OSError, ValueError, KeyError):
        return None


def write_card(request, config: dict, differences: dict, keep_evaluation: bool):
    """Writes README.md; tables of an earlier evaluation stay if it was of the very same files."""
    path = request.output / "README.md"
    evaluation = _evaluation(path) if keep_evaluation else ""
    section = config["emotion_server"]
    labels = [config["id2label"][index] for index in sorted(config["id2label"], key=int)]
    multi = config["problem_type"] == "multi_label_classification"
    parts = [
        f"# {section['name']}",
        f"Emotion classifier for English text, the {section['role']} model of emotion-server. "
        f"Architecture {config['model_type']}: {config['num_hidden_layers']} layers, {config['hidden_size']} wide, "
        f"up to {section['max_length']} tokens. Weights from {section['source']}.",
    ]
    if request.notes:
        parts.append(request.notes.strip())
    parts.append(
        f"{len(labels)} labels, "
        + ("each with a score and a threshold of its own" if multi else "one of them a text")
        + f": {', '.join(labels)}."
    )
    parts.append("| file | bytes |\n| --- | ---: |\n" + "\n".join(
        f"| `{name}` | {entry['bytes']:,} |" for name, entry in section["files"].items()
    ))
    parts.append("Each precision is its `.onnx` graph and its `.bin` weights; both read the word embeddings (int8, a "
                 "scale a row) from `embeddings.bin`. The first token's path through the last layer and the "
                 "classifier are computed for that token alone. A text's scores are the same to the bit alone and in "
                 "any batch.")
    parts.append("\n".join(_how(request, name, differences[name]) for name in section["precisions"]))
    parts.append("## Evaluation")
    parts.append(f"{OPEN}\n{evaluation}{CLOSE}")
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _how(request, name: str, difference) -> str:
    line = f"- {name}: {HOW[name]}."
    if name in request.wide:
        line += f" Matrix products matching `{request.wide[name].pattern}` keep 8 bits in blocks of 32."
    if request.calibration_texts:
        line += f" Rounded to lose least on {len(request.calibration_texts):,} calibration texts."
    return line + (
        f" On the probe texts its logits are {difference.mean:.3f} from fp32 on average, "
        f"{difference.greatest:.3f} at most."
    )


def _evaluation(path: Path) -> str:
    """What stands between the markers of an earlier card."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    if OPEN not in text or CLOSE not in text:
        return ""
    return text.split(OPEN, 1)[1].split(CLOSE, 1)[0].removeprefix("\n")
