"""Which packages an image of a tool is to have, and what it is called. Pure."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final

from cloned_proxy.runner.values.errors import SandboxInputError

_NPM: Final = re.compile(
    r"(?P<name>(?:@[a-z0-9~-][a-z0-9._~-]*/)?[a-z0-9~-][a-z0-9._~-]*)"
    r"@(?P<version>\d+\.\d+\.\d+(?:[-+][0-9A-Za-z.+-]+)?)"
)
_PYPI: Final = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)(?:\[[A-Za-z0-9,._-]+\])?"
    r"==(?P<version>[0-9A-Za-z][0-9A-Za-z.!+_-]*)"
)
_TAG: Final = re.compile(r"[a-z0-9]+(?:[._/-][a-z0-9]+)*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?")
_LONGEST: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolImage:
    """What is to be in an image. Raises SandboxInputError for a package without an exact version."""

    npm: tuple[str, ...] = ()
    """`NAME@VERSION`."""
    pypi: tuple[str, ...] = ()
    """`NAME==VERSION`, or `NAME[EXTRA]==VERSION`."""
    tag: str | None = None
    """The image's name; None: made of the packages' own."""
    scripts: bool = False
    """Whether the install scripts of npm packages run, in the build, as nobody and without a network."""
    with_node: bool = False
    """Whether Node stays where no npm package needs it. A program that finds npm may want to install by it."""

    def __post_init__(self) -> None:
        for word in self.npm:
            _parsed(_NPM, word, "--npm", "NAME@VERSION with an exact version, as in semver@7.7.1")
        for word in self.pypi:
            _parsed(_PYPI, word, "--pypi", "NAME==VERSION, as in mcp-server-time==2025.9.25")
        if not self.words:
            raise SandboxInputError("an image of a tool has at least one package")
        if self.tag is not None and not _TAG.fullmatch(self.tag):
            raise SandboxInputError(f"--tag {self.tag}: write a name such as my-tools or my-tools:1")
        if self.scripts and not self.npm:
            raise SandboxInputError("--scripts is for packages of --npm; wheels of --pypi have none")

    @property
    def words(self) -> list[str]:
        """What was asked for: `npm:NAME@VERSION` and `pypi:NAME==VERSION`."""
        return sorted([*(f"npm:{word}" for word in self.npm), *(f"pypi:{word}" for word in self.pypi)])

    @property
    def npm_versions(self) -> dict[str, str]:
        """Name to version."""
        return dict(_parsed(_NPM, word, "--npm", "") for word in self.npm)

    @property
    def pypi_versions(self) -> dict[str, str]:
        """Name, without extras, to version."""
        return dict(_parsed(_PYPI, word, "--pypi", "") for word in self.pypi)

    @property
    def name(self) -> str:
        """`cloned-tool-NAME:VERSION`; for more than one package plain the first one's name, and a hash over all."""
        if self.tag is not None:
            return self.tag if ":" in self.tag else f"{self.tag}:latest"
        first, version = (
            _parsed(_NPM, self.npm[0], "--npm", "") if self.npm else _parsed(_PYPI, self.pypi[0], "--pypi", "")
        )
        slug = re.sub(r"[^a-z0-9]+", "-", first.lower()).strip("-")[:_LONGEST]
        tag = re.sub(r"[^A-Za-z0-9_.-]", "_", version)[:_LONGEST]
        if len(self.words) > 1 or self.scripts or self.with_node:
            mark = repr((self.words, self.scripts, self.with_node))
            tag += f"-{hashlib.sha256(mark.encode()).hexdigest()[:8]}"
        return f"cloned-tool-{slug}:{tag}"


def _parsed(form: re.Pattern[str], word: str, option: str, fix: str) -> tuple[str, str]:
    found = form.fullmatch(word)
    if found is None:
        raise SandboxInputError(f"{option} {word}: write {fix}")
    return found["name"], found["version"]
