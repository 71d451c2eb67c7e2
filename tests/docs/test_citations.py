"""What a text cites can be read: the file is in the repository, and has the heading."""

from __future__ import annotations

import re
import subprocess
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
_PLACE = re.compile(
    r"(?<![\w./-])(?:cloned_proxy|tests|handbook|findings|plane/src)/[a-z_][a-z0-9_/.-]*[a-z0-9](?![\w<{*$-])"
)
"""A file or a folder, from the root of the repository."""
_SHORT = re.compile(r"`((?:[a-z_0-9]+/)+[a-z_0-9]+\.(?:py|rs|js))`")
"""A file by the end of its place, as a comment next door names it."""
_MADE = ("cloned_proxy/_share", "cloned_proxy/_plane")
"""Folders that only the wheel has."""
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


def tracked() -> list[str]:
    listed = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return listed.stdout.splitlines()


def texts() -> list[Path]:
    """Where people and programs name our files; the tests of these pages make names up."""
    tests_of_pages = ("tests/docs/", "CHANGELOG.md")
    kinds = {*_SUFFIXES, ".md", ".in", ".yml", ".json"}
    kept = {"Makefile", "Dockerfile", "run"}
    paths = [ROOT / name for name in tracked() if not name.startswith(tests_of_pages)]
    return [path for path in paths if (path.suffix in kinds or path.name in kept) and path.is_file()]


def lost(text: str, places: set[str]) -> Iterator[str]:
    """The files and folders that `text` names and `places`, each place with all its ends, does not have."""
    for match in _PLACE.finditer(text):
        place = match[0].rstrip("/")
        if not place.startswith(_MADE) and not places & {place, f"{place}.py"}:
            yield place
    yield from (match[1] for match in _SHORT.finditer(text) if match[1] not in places)


def ends(names: list[str]) -> set[str]:
    """Each file and folder, by its whole place and by each end of it."""
    found: set[str] = set()
    for name in names:
        for place in (Path(name), *Path(name).parents):
            found |= {"/".join(place.parts[start:]) for start in range(len(place.parts))}
    return found


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


def test_every_file_that_is_named_exists() -> None:
    named = texts()
    assert len(named) > 1000
    places = ends(tracked())
    found = {str(path.relative_to(ROOT)): sorted(lost(path.read_text(encoding="utf-8"), places)) for path in named}
    assert {path: each for path, each in found.items() if each} == {}


def test_a_file_that_has_moved_is_found() -> None:
    places = ends(["cloned_proxy/proxy/http1/upstream.py", "tests/runner/test_x.py"])
    text = "cloned_proxy/proxy/http1/upstream.py tests/runner tests/setup: `http1/upstream.py` `plain/upstream.py`"
    assert list(lost(text, places)) == ["tests/setup", "plain/upstream.py"]
