"""Texts to ask servers with: made up, the same on every machine, or those of a data set. No two are equal."""

import random
from pathlib import Path

WORDS = (
    "I you we never always love hate this terrible wonderful morning game and but surprised thanks worried about "
    "friend angry proud because what today"
).split()


class NoTexts(ValueError):
    """A data folder without texts; the message says what was expected."""


def mixed_text(number: int) -> str:
    """Mostly 5 to 40 words, one in twenty of 200 to 400 (up to about 500 tokens); no two are equal."""
    choice = random.Random(number)
    words = choice.randint(200, 400) if number % 20 == 19 else choice.randint(5, 40)
    return f"{number} " + " ".join(choice.choices(WORDS, k=words))


def long_text(number: int) -> str:
    """More than the model reads."""
    return f"{number} " + " ".join(random.Random(number).choices(WORDS, k=600))


def read_texts(folder: Path) -> list[str]:
    """The texts of all TSV files of a folder (first column), each once, in an order that is always the same.

    Once, because a server that keeps answers would otherwise find some of them; shuffled, so that every part
    of the list holds the same mix.
    """
    files = sorted(folder.glob("*.tsv")) if folder.is_dir() else []
    lines = [line for file in files for line in file.read_text(encoding="utf-8").split("\n")]
    texts = sorted({text for line in lines if (text := line.split("\t")[0].strip())})
    if not texts:
        raise NoTexts(f"{folder} holds no texts: expected a folder of .tsv files, the text in the first column")
    random.Random(7).shuffle(texts)
    return texts
