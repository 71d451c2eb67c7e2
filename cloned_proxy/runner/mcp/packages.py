"""The lines that people paste: `npx -y P`, `uvx P` and their likes, read as the package that they would fetch. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Final, Literal

_NPM: Final = re.compile(
    r"(?P<name>(?:@[a-z0-9~-][a-z0-9._~-]*/)?[a-z0-9~-][a-z0-9._~-]*)(?:@(?P<version>[\w.^~+-]+))?"
)
_PYPI: Final = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*(?:\[[A-Za-z0-9._,-]+\])?)(?:(?:==|@)(?P<version>[\w.+!-]+))?"
)
_QUIET: Final = frozenset(
    {"-y", "--yes", "-q", "--quiet", "--silent", "--no", "--refresh", "--isolated", "--no-progress"}
)
_LATEST: Final = "latest"
_EXACT: Final = re.compile(r"\d+(?:\.\d+)+(?:[-+.a-z0-9A-Z]*)?")

type Kind = Literal["npm", "pypi"]

_RUNNERS: Final[dict[tuple[str, ...], Kind]] = {
    ("npx",): "npm", ("bunx",): "npm", ("pnpm", "dlx"): "npm", ("npm", "exec"): "npm",
    ("uvx",): "pypi", ("uv", "tool", "run"): "pypi", ("pipx", "run"): "pypi",
}  # fmt: skip
_FROM: Final = frozenset({"-p", "--package", "--from", "--spec"})


@dataclass(frozen=True, slots=True)
class Package:
    """A package of a registry, and the program of it that is meant."""

    kind: Kind
    name: str
    version: str | None
    """None: the newest there is."""
    program: str | None = None
    """None: the package's only one, or the one of its own name."""

    @property
    def exact(self) -> bool:
        """Whether it says which version is meant, and not only a range of them."""
        return self.version is not None and _EXACT.fullmatch(self.version) is not None

    def line(self, rest: Sequence[str]) -> tuple[str, list[str]]:
        """Command and words that start its program in an image with the package baked in."""
        if self.program is not None:
            return self.program, list(rest)
        return ("npx", ["-y", str(self), *rest]) if self.kind == "npm" else ("uvx", [str(self), *rest])

    def __str__(self) -> str:
        between = "@" if self.kind == "npm" else "=="
        return f"{self.name}{between}{self.version}" if self.version else self.name


def parse_package(kind: Kind, text: str) -> Package:
    """`P@V` of npm, `P==V` of PyPI; the version may be left out. Raises ValueError."""
    found = (_NPM if kind == "npm" else _PYPI).fullmatch(text)
    if found is None:
        form = "@scope/server@1.2.3" if kind == "npm" else "mcp-server-time==2026.1.0"
        raise ValueError(f"{text!r} is no package of {kind}; write one such as {form}")
    version = found["version"]
    return Package(kind, found["name"], None if version == _LATEST else version)


def pinned(package: Package, version: str) -> Package:
    """The package with this version."""
    return replace(package, version=version)


def package_of(command: str, args: Sequence[str]) -> tuple[Package, list[str]] | None:
    """The package that a line fetches and starts, and the words for its program; None for any other line."""
    words = [PurePath(command).name, *args]
    for runner, kind in _RUNNERS.items():
        if tuple(words[: len(runner)]) == runner:
            return _read(kind, words[len(runner) :])
    return None


def _read(kind: Kind, words: list[str]) -> tuple[Package, list[str]] | None:
    spec: str | None = None
    while words and words[0].startswith("-"):
        option, equals, value = words.pop(0).partition("=")
        if option == "--":
            break
        if option in _FROM:
            if not equals and not words:
                return None
            spec = value if equals else words.pop(0)
        elif option not in _QUIET:
            return None  # an option that changes what is fetched: not for us to guess
    if not words:
        return None
    program = words.pop(0)
    if words[:1] == ["--"] and kind == "npm":
        words.pop(0)
    try:
        found = parse_package(kind, spec or program)
    except ValueError:
        return None
    if spec is not None:
        found = Package(kind, found.name, found.version, program)
    return found, words
