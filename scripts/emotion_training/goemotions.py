"""GoEmotions-format TSV files: labels, rows, and the Ekman groups of the data set's authors."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

EKMAN_GROUPS = {
    "anger": ("anger", "annoyance", "disapproval"),
    "disgust": ("disgust",),
    "fear": ("fear", "nervousness"),
    "joy": (
        "admiration", "amusement", "approval", "caring", "desire", "excitement",
        "gratitude", "joy", "love", "optimism", "pride", "relief",
    ),
    "neutral": ("neutral",),
    "sadness": ("sadness", "disappointment", "embarrassment", "grief", "remorse"),
    "surprise": ("surprise", "realization", "confusion", "curiosity"),
}
EKMAN_LABELS = tuple(EKMAN_GROUPS)


class BadData(ValueError):
    """A file of the data set that can't be read as what it should be; the message says where."""


@dataclass(frozen=True)
class Split:
    """Texts with their gold labels, in file order."""

    texts: list[str]
    gold: np.ndarray
    """bool [rows, labels]"""

    def __len__(self):
        return len(self.texts)


def read_labels(data_dir):
    """Label names, one a line in labels.txt; the line number counted from 0 is the label's id."""
    path = Path(data_dir) / "labels.txt"
    if not path.is_file():
        raise BadData(f"{path} is missing: it names the labels, one a line, in the order of their ids")
    labels = [line.strip() for line in path.read_text(encoding="utf-8").split("\n")]
    while labels and not labels[-1]:
        labels.pop()
    for number, label in enumerate(labels, start=1):
        if not label:
            raise BadData(f"{path}:{number}: empty line between labels")
        if labels.index(label) != number - 1:
            raise BadData(f"{path}:{number}: label {label!r} appears twice")
    if len(labels) < 2:
        raise BadData(f"{path} holds {len(labels)} labels: at least two are needed")
    return labels


def read_split(data_dir, split, labels):
    """Rows of `<split>.tsv`: text, comma-separated label ids, and a comment id that is not used."""
    path = Path(data_dir) / f"{split}.tsv"
    if not path.is_file():
        raise BadData(f"{path} is missing: rows of text, comma-separated label ids, comment id")
    texts, rows = [], []
    # Texts may hold any Unicode line separator: only a newline ends a row. A bad byte is found line by line.
    for number, raw in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not raw.strip():
            continue
        try:
            line = raw.decode("utf-8").rstrip("\r")
        except UnicodeDecodeError as error:
            raise BadData(f"{path}:{number}: not UTF-8 (byte {error.start} of the line)") from error
        columns = line.split("\t")
        if len(columns) not in (2, 3):
            raise BadData(
                f"{path}:{number}: {len(columns)} tab-separated columns, "
                "expected text, label ids and (optionally) comment id"
            )
        if not columns[0].strip():
            raise BadData(f"{path}:{number}: the text is empty")
        texts.append(columns[0])
        rows.append(_gold_row(columns[1], len(labels), f"{path}:{number}"))
    if not texts:
        raise BadData(f"{path} holds no rows")
    return Split(texts, np.stack(rows))


def _gold_row(field, label_count, where):
    row = np.zeros(label_count, dtype=bool)
    for part in field.split(","):
        part = part.strip()
        if not (part.isascii() and part.isdigit()):
            raise BadData(f"{where}: {part!r} is no label id, expected comma-separated numbers like 3,14")
        if int(part) >= label_count:
            raise BadData(f"{where}: label id {part} is outside 0 to {label_count - 1}, the lines of labels.txt")
        row[int(part)] = True
    return row


def ekman_membership(labels):
    """bool [labels, 7]: which Ekman group each GoEmotions label belongs to."""
    group_of = {label: group for group, members in EKMAN_GROUPS.items() for label in members}
    unknown = [label for label in labels if label not in group_of]
    if unknown:
        raise BadData(
            f"labels.txt holds {', '.join(unknown)}, which no Ekman group holds: "
            "the ekman task needs the label names of GoEmotions"
        )
    return np.array([[group_of[label] == group for group in EKMAN_LABELS] for label in labels])


def to_ekman(split, labels):
    """The same texts with the Ekman groups of their labels as gold, bool [rows, 7]."""
    return Split(split.texts, split.gold @ ekman_membership(labels))
