"""`make docs`: the pages of docs/ and those beside the code as one site, which needs no network to be read.

The pages are written for people who look at the repository, so their links lead to its files. Here each page gets a
place of its own beside the others, links among pages follow it, and a link to a file that is no page becomes its name.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path, PurePosixPath
from typing import Final

ROOT: Final = Path(__file__).parents[1]
SETTINGS: Final = ROOT / "handbook" / "zensical.toml"
BESIDE: Final = {
    "README.md": "index.md",
    "SECURITY.md": "security.md",
    "CONTRIBUTING.md": "contributing.md",
    "RELEASING.md": "releasing.md",
    "CHANGELOG.md": "changelog.md",
    "examples/README.md": "examples.md",
    "findings/README.md": "findings.md",
    "bench/results/full.md": "bench-results.md",
}
"""By its place in the repository, the page that a document outside of docs/ becomes."""

_FENCE: Final = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_LINK: Final = re.compile(r"(!?)\[([^\]\n]*)\]\(([^)\s]+)\)")
_PICTURES: Final = {".png", ".svg"}


def pages() -> dict[str, str]:
    """By its place in the repository, the page that each document becomes."""
    return {f"docs/{path.name}": path.name for path in sorted((ROOT / "docs").glob("*.md"))} | BESIDE


def stage(output: Path) -> None:
    """Writes `output`/pages and `output`/zensical.toml. Raises SystemExit for a link that leads nowhere."""
    staged = output / "pages"
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    known = pages()
    for source, page in known.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        (staged / page).write_text(_outside_fences(text, source, known, staged), encoding="utf-8")
    shutil.copy(SETTINGS, output / SETTINGS.name)


def _outside_fences(text: str, source: str, known: dict[str, str], staged: Path) -> str:
    """The page with its links changed, and what stands in a fence as it was: there a bracket is only a bracket."""
    parts: list[str] = []
    end = 0
    for fence in _FENCE.finditer(text):
        parts += [_with_links(text[end : fence.start()], source, known, staged), fence[0]]
        end = fence.end()
    return "".join([*parts, _with_links(text[end:], source, known, staged)])


def _with_links(text: str, source: str, known: dict[str, str], staged: Path) -> str:
    def changed(link: re.Match[str]) -> str:
        picture, words, target = link.groups()
        if re.match(r"[a-z]+:|#", target):
            return link[0]
        file, _, anchor = target.partition("#")
        place = os.path.normpath(PurePosixPath(source).parent / file)
        if place in known:
            return f"{picture}[{words}]({known[place]}{'#' if anchor else ''}{anchor})"
        if not (ROOT / place).exists():
            raise SystemExit(f"{source}: {target}: no such file")
        if PurePosixPath(place).suffix in _PICTURES:
            name = place.replace("/", "-")
            shutil.copy(ROOT / place, staged / name)
            return f"{picture}[{words}]({name})"
        return f"`{place}`" if words.strip("`") in place else f"{words} (`{place}`)"

    return _LINK.sub(changed, text)


def build(output: Path) -> None:
    """Writes `output`/site. Raises SystemExit where a link is dead, with its place."""
    stage(output)
    shutil.rmtree(output / "site", ignore_errors=True)
    generator = Path(sys.executable).with_name("zensical")
    words: list[str | Path] = ["build", "--strict", "--clean", "--config-file", output / SETTINGS.name]
    plain = os.environ | {"NO_COLOR": "1"}
    done = subprocess.run(
        [generator, *words], check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=plain
    )
    if done.returncode != 0:
        # Behind its findings comes a traceback of its own, which says nothing more.
        raise SystemExit(done.stdout.partition("Traceback (most recent call last)")[0] or done.stdout)


def nav_pages() -> list[str]:
    """The pages that the navigation names, in its order."""
    project = tomllib.loads(SETTINGS.read_text(encoding="utf-8"))["project"]
    return [page for group in project["nav"] for named in group.values() for page in named]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "build", help="folder that gets site/ (default: build)")
    output = parser.parse_args().output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    if wrong := set(nav_pages()) ^ set(pages().values()):
        raise SystemExit(f"{SETTINGS.name}: `nav` names what is no page, or misses one: {', '.join(sorted(wrong))}")
    build(output)
    print(f"{output / 'site' / 'index.html'}: {len(pages())} pages")


if __name__ == "__main__":
    main()
