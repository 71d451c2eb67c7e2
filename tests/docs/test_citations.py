"""What a comment cites can be read: the file is in the repository, and has the heading."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.test_links import ROOT, anchors

pytestmark = pytest.mark.checkout

_SOURCES = (
    "cloned_proxy",
    "tests",
    "plane/src",
    "addons",
    "bench",
    "demo",
    "examples",
    "handbook",
    "sandbox",
    "packaging",
)
_SUFFIXES = {".py", ".rs", ".js", ".sh", ".yaml", ".toml"}
_CITED = re.compile(r"docs/([a-z][a-z0-9-]*\.md)(?:#([a-z0-9_-]+))?")
_MADE_UP = {"a.md", "dead.md"}
"""Pages that tests make for themselves."""
_NOWHERE = re.compile(r"\b(?:contract|design)(?:'s)?[,(]* ?section \d+|\b(?:contract|design)\.md\b", re.IGNORECASE)


def sources() -> list[Path]:
    found = [path for name in _SOURCES for path in (ROOT / name).rglob("*") if path.suffix in _SUFFIXES]
    return sorted(path for path in found if path.name != Path(__file__).name)


def wrong(text: str) -> Iterator[str]:
    for match in _CITED.finditer(text):
        page = ROOT / "docs" / match[1]
        if match[1] in _MADE_UP:
            continue
        if not page.is_file():
            yield f"{match[0]}: no such page"
        elif match[2] and match[2] not in anchors(page.read_text()):
            yield f"{match[0]}: no such heading"
    yield from (f"{match[0]}: not in this repository" for match in _NOWHERE.finditer(text))


def test_every_cited_page_and_heading_exists() -> None:
    found = {str(path.relative_to(ROOT)): list(wrong(path.read_text())) for path in sources()}
    assert len(found) > 500
    assert {path: each for path, each in found.items() if each} == {}


def test_what_cannot_be_read_is_found() -> None:
    text = "docs/gone.md docs/policy.md#gone docs/policy.md#presets, contract section 3, (design section 12)"
    assert list(wrong(text)) == [
        "docs/gone.md: no such page",
        "docs/policy.md#gone: no such heading",
        "contract section 3: not in this repository",
        "design section 12: not in this repository",
    ]
