"""The examples of the documentation, run against a real server: each reply is the one that stands there."""

import re
import subprocess
import sys

import pytest
from real_server import ROOT, ask

PAGES = [ROOT / "README.md", ROOT / "docs" / "protocols.md"]
ADDRESS = "127.0.0.1:8080"
# A command that asks the server, and the reply shown right behind it.
ASKED = re.compile(r"```sh\n((?:(?!```).)*curl(?:(?!```).)*)```\n\n```json\n(.*?)```", re.DOTALL)
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)
# Not a part of a version.
FRACTION = r"(?<![\d.])-?\d+\.\d+(?:e-?\d+)?(?![\d.])"
# Processors differ in the last digits; what the models' own probes allow is far more.
TOLERANCE = 0.02


def examples(pattern: re.Pattern) -> list:
    """What stands in code blocks, with a name that says where."""
    return [
        pytest.param(*found.groups(), id=f"{page.name}:{page.read_text()[: found.start()].count(chr(10)) + 1}")
        for page in PAGES
        for found in pattern.finditer(page.read_text())
    ]


def squeezed(text: str) -> str:
    """The text without white space: line breaks are added in the documentation."""
    return re.sub(r"\s+", "", text)


def pattern_of(shown: str) -> str:
    """Takes any text for an ellipsis (but for one inside a quoted example) and any number for a fraction."""
    parts = re.split(rf"(?<!\\\")(…)|({FRACTION})", squeezed(shown))
    texts, others = parts[::3], zip(parts[1::3], parts[2::3], strict=True)
    return re.escape(texts[0]) + "".join(
        (".*?" if dots else f"({FRACTION})") + re.escape(text)
        for (dots, _), text in zip(others, texts[1:], strict=True)
    )


def fractions_of(shown: str) -> list[float]:
    """The numbers that `pattern_of` leaves open."""
    return [float(found) for found in re.findall(FRACTION, squeezed(shown))]


@pytest.fixture(scope="module", autouse=True)
def loaded(server):
    """Both models are there, as after the first requests of somebody who tries the examples."""
    for role in ("heavy", "light"):
        assert ask(f"{server.url}/analyze", {"text": "Good morning!", "model": role})[0] == 200


@pytest.mark.parametrize(("command", "shown"), examples(ASKED))
def test_a_command_gets_the_reply_that_is_shown(server, command, shown):
    command = command.replace(ADDRESS, server.address)
    reply = subprocess.run(["bash", "-c", command], check=True, capture_output=True, text=True, timeout=60).stdout
    found = re.fullmatch(pattern_of(shown), squeezed(reply), re.DOTALL)
    assert found, f"shown:\n{shown}\nreplied:\n{reply}"
    assert [float(number) for number in found.groups()] == pytest.approx(fractions_of(shown), abs=TOLERANCE)


@pytest.mark.parametrize(("code",), examples(PYTHON))
def test_python_prints_what_its_comment_says(server, code):
    said = " ".join(re.findall(r"# (.*)", code))
    code = code.replace(ADDRESS, server.address)
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert printed.stdout
    for word in printed.stdout.split():
        assert word in said, f"said: {said}\nprinted: {printed.stdout}"
