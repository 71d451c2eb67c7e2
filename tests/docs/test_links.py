"""Every local link in the Markdown files leads somewhere: the file exists, and so does the heading."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_architecture import LAYERS, ROOMS

pytestmark = pytest.mark.checkout

ROOT = Path(__file__).resolve().parents[2]
_FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)


def documents(root: Path) -> list[Path]:
    hidden = {"node_modules", "dist", "build"}
    return sorted(
        path
        for path in root.rglob("*.md")
        if not any(part in hidden or part.startswith(".") for part in path.relative_to(root).parts)
    )


def anchors(text: str) -> set[str]:
    """The anchors of a document's headings, as the forges make them: lower case, no punctuation, dashes for spaces."""
    found: set[str] = set()
    for heading in _HEADING.findall(_FENCE.sub("", text)):
        kept = "".join(c for c in heading.lower() if c in " -_" or unicodedata.category(c)[0] in "LN")
        found.add(kept.replace(" ", "-"))
    return found


def dead_links(path: Path) -> Iterator[str]:
    text = _FENCE.sub("", path.read_text())
    for target in (a or b for a, b in _LINK.findall(text)):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        goal = (path.parent / file) if file else path
        if not goal.exists():
            yield f"{path.name}: {target}: no such file"
        elif anchor and anchor not in anchors(goal.read_text()):
            yield f"{path.name}: {target}: no such heading"


def test_no_document_has_a_dead_link() -> None:
    assert documents(ROOT), "no Markdown found: the check would pass on nothing"
    assert [dead for path in documents(ROOT) for dead in dead_links(path)] == []


def test_a_dead_file_and_a_dead_anchor_are_both_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# What it is\n\n[a](#what-it-is) [b](gone.md) [c](#gone) [d](https://example.com/x)\n")
    assert list(dead_links(page)) == ["page.md: gone.md: no such file", "page.md: #gone: no such heading"]


def test_the_staircase_of_the_page_is_the_one_that_is_held() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    stairs = re.findall(r"^\| `(\w+)` \|", page.partition("## The staircase")[2].partition("\n## ")[0], re.MULTILINE)
    assert tuple(stairs) == LAYERS
    rooms = re.findall(r"`([a-z0-9]+)`", page.partition("## Life of a request")[2].partition("\n## ")[0])
    assert set(ROOMS["proxy"]) <= set(rooms), "a room that no phase names"
