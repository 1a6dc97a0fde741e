"""The documentation's links lead somewhere, and every page can be found from the README."""

import re
from pathlib import Path

import pytest
from manifests import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "onnx").glob("*/README.md")])
BLOCK = re.compile(r"^(`{3,}).*?^\1", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`[^`\n]*`")
LINK = re.compile(r"\[[^]]*\]\(([^)\s]+)\)")


def links(page: Path) -> list[str]:
    """Where a page's links go that do not leave the project; what stands in code is no link."""
    targets = LINK.findall(INLINE.sub("", BLOCK.sub("", page.read_text(encoding="utf-8"))))
    return [target for target in targets if "://" not in target]


def anchors(page: Path) -> set[str]:
    """Names of a page's headings, as hosts of git repositories make them."""
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file_and_a_heading(page):
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.is_relative_to(ROOT) and file.exists(), f"{target} leads to no file"
        assert not anchor or anchor in anchors(file), f"{target}: headings are {sorted(anchors(file))}"


def test_the_readme_leads_to_every_page():
    linked = {(ROOT / target.partition("#")[0]).resolve() for target in links(ROOT / "README.md")}
    assert set(PAGES) - linked == {ROOT / "README.md", *(ROOT / "onnx").glob("*/README.md")}
