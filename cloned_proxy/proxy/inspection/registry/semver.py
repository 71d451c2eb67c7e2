"""The order of npm's versions (Semantic Versioning 2.0.0, section 11): pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

_VERSION: Final = re.compile(r"[v=]*(\d{1,16})\.(\d{1,16})\.(\d{1,16})(?:-([0-9A-Za-z.-]+))?(?:\+[0-9A-Za-z.-]+)?")


class Semver(NamedTuple):
    """Compares by precedence."""

    numbers: tuple[int, int, int]
    final: bool
    """No pre-release: above every pre-release of the same numbers."""
    labels: tuple[tuple[bool, int, str], ...]
    """Sorts the parts of a pre-release: numbers below words, numbers by value, words by their ASCII."""


def parse_semver(text: str) -> Semver | None:
    """None for a text that is no version."""
    match = _VERSION.fullmatch(text)
    if match is None:
        return None
    labels = tuple(
        (False, int(part), "") if part.isdigit() and len(part) <= 16 else (True, 0, part)  # noqa: PLR2004  digits
        for part in (match[4] or "").split(".")
        if part
    )
    return Semver((int(match[1]), int(match[2]), int(match[3])), not labels, labels)


def newest(versions: Iterable[str]) -> str:
    """The highest version, a pre-release only where there is nothing else; "" of none."""
    found = [(parsed.final, parsed, text) for text in versions if (parsed := parse_semver(text)) is not None]
    return max(found, default=(False, None, ""))[2]
