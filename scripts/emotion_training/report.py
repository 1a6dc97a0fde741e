"""The evaluation as Markdown tables, and its place in a model card."""

from pathlib import Path

from .goemotions import BadData

OPENING, CLOSING = "<!-- evaluation -->", "<!-- /evaluation -->"


def summary_table(columns, rows):
    """Markdown table: one row a measure, one column a precision; rows are (name, values)."""
    lines = [f"| | {' | '.join(columns)} |", f"| --- |{' ---: |' * len(columns)}"]
    lines += [f"| {name} | {' | '.join(values)} |" for name, values in rows]
    return "\n".join(lines)


def label_table(labels, scores, f1_of_others, thresholds=None):
    """
    Markdown table of each label: precision, recall, F1 and support, then F1 of the other precisions.

    f1_of_others maps a column's name to its F1 per label.
    """
    head = ["label", *(["threshold"] if thresholds else []), "precision", "recall", "F1", "support"]
    head += [f"F1 {name}" for name in f1_of_others]
    lines = [f"| {' | '.join(head)} |", f"| --- |{' ---: |' * (len(head) - 1)}"]
    for index, label in enumerate(labels):
        cells = [label, *([f"{thresholds[index]:.2f}"] if thresholds else [])]
        cells += [f"{values[index]:.3f}" for values in (scores.precision, scores.recall, scores.f1)]
        cells.append(str(int(scores.support[index])))
        cells += [f"{f1[index]:.3f}" for f1 in f1_of_others.values()]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def write_into_card(path, text):
    """Replaces what stands between the markers of a model card."""
    path = Path(path)
    try:
        card = path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadData(f"cannot read the model card {path}: {error}") from error
    before, opening, rest = card.partition(OPENING)
    _, closing, after = rest.partition(CLOSING)
    if not (opening and closing):
        raise BadData(f"{path} has no lines {OPENING} and {CLOSING} for the tables to go between")
    path.write_text(f"{before}{OPENING}\n{text.strip()}\n{CLOSING}{after}", encoding="utf-8")
