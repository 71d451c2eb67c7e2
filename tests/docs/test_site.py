"""`make docs`: the pages as they are, every link leads somewhere, and a browser fetches nothing from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Final

import pytest

from handbook import site as handbook

pytestmark = pytest.mark.checkout

ROOT: Final = Path(__file__).resolve().parents[2]
PYTHON: Final = ROOT / ".venv-docs" / "bin" / "python"
_FROM_ELSEWHERE: Final = re.compile(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//")


class Loaded(HTMLParser):
    """What a browser fetches by itself for a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.classes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.classes |= set(given.get("class", "").split())
        if tag == "a":
            return
        self.addresses += [given[name] for name in ("src", "href", "srcset", "data", "poster") if name in given]


def built(output: Path) -> subprocess.CompletedProcess[str]:
    words: list[str | Path] = [PYTHON, "-m", "handbook.site", "--output", output]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=100)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not PYTHON.exists():
        assert not os.environ.get("CI"), "what builds the site is not installed: make docs"
        pytest.skip("what builds the site is not installed: make docs")
    output = tmp_path_factory.mktemp("docs")
    done = built(output)
    assert done.returncode == 0, done.stdout + done.stderr
    return output / "site"


def test_the_navigation_names_each_page_once() -> None:
    assert sorted(handbook.nav_pages()) == sorted(handbook.pages().values())


def test_each_page_is_in_the_site(site: Path) -> None:
    missing = [page for page in handbook.pages().values() if not (site / page).with_suffix(".html").exists()]
    assert missing == []


def test_a_browser_fetches_nothing_from_elsewhere(site: Path) -> None:
    seen = 0
    for page in sorted(site.rglob("*.html")):
        loaded = Loaded()
        loaded.feed(page.read_text(encoding="utf-8"))
        seen += len(loaded.addresses)
        assert [each for each in loaded.addresses if re.match(r"(?:[a-z]+:)?//", each)] == [], page.name
        # For these the generator's script fetches a library from a CDN.
        assert loaded.classes & {"mermaid", "glightbox", "pyodide"} == set(), page.name
    assert seen > 100, "no page loads anything: the check would pass on nothing"
    for sheet in sorted(site.rglob("*.css")):
        assert _FROM_ELSEWHERE.search(sheet.read_text(encoding="utf-8")) is None, sheet.name


@pytest.mark.parametrize(
    "tag", ['<script src="https://cdn.example/x.js">', '<link href="//fonts.example/css">', '<img srcset="http://x/y">']
)
def test_what_would_come_from_elsewhere_is_seen(tag: str) -> None:
    loaded = Loaded()
    loaded.feed(tag)
    assert [re.match(r"(?:[a-z]+:)?//", each) is not None for each in loaded.addresses] == [True]


def test_links_follow_the_pages_and_files_become_their_names(tmp_path: Path) -> None:
    handbook.stage(tmp_path)
    page = (tmp_path / "pages" / "kubernetes.md").read_text(encoding="utf-8")
    assert "`deploy/kubernetes`" in page
    assert "](../" not in page
    assert "](install.md#from-a-mac)" in (tmp_path / "pages" / "index.md").read_text(encoding="utf-8")


def test_a_dead_link_fails_with_its_place(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The generator is strict about what this project's own check of links cannot know: what it makes of a heading."""
    monkeypatch.setattr("sys.executable", str(PYTHON))
    monkeypatch.setattr(handbook, "pages", lambda: {"README.md": "index.md", "docs/dead.md": "dead.md"})
    monkeypatch.setattr(handbook, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("# Here\n\n[there](docs/dead.md)\n")
    (tmp_path / "docs" / "dead.md").write_text("# There\n\n[nothing](../README.md#nothing)\n")
    with pytest.raises(SystemExit, match=r"dead\.md:3"):
        handbook.build(tmp_path / "out")
    (tmp_path / "docs" / "dead.md").write_text("# There\n\n[nothing](../gone.txt)\n")
    with pytest.raises(SystemExit, match=r"docs/dead\.md: \.\./gone\.txt: no such file"):
        handbook.build(tmp_path / "out")
