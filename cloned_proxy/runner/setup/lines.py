"""Small changes in a file of `NAME=value` lines (dotenv, Java's properties): every other byte stays."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

_LINE: Final = re.compile(r"^[ \t]*(?:export[ \t]+)?([^\s#!=:]+)[ \t]*[=:][ \t]*([^\r\n]*)", re.MULTILINE)


def read(text: str) -> Any:
    """Names and values as they are written; of a name that stands twice the last value."""
    return {found[1]: found[2] for found in _LINE.finditer(text)}


def raw_value(text: str, place: Sequence[str]) -> str:
    """Raises KeyError for a name that no line sets."""
    return _line(text, place[-1])[2]


def raw_of(value: Any) -> str:
    """The value as it stands behind the sign."""
    return str(value)


def with_value(text: str, place: Sequence[str], raw: str, *, behind: str = "") -> str:  # noqa: ARG001  lines have no order
    """The value replaced; a name that is not there yet comes as a line at the end."""
    try:
        line = _line(text, place[-1])
    except KeyError:
        added = f"{place[-1]}={raw}"
        return f"{text}{added}\n" if not text or text.endswith("\n") else f"{text}\n{added}"
    return text[: line.start(2)] + raw + text[line.end(2) :]


def without(text: str, place: Sequence[str]) -> str:
    """The text without the line: takes back what `with_value` added."""
    line = _line(text, place[-1])
    if line.end() < len(text):
        return text[: line.start()] + text[line.end() + 1 :]
    return text[: line.start()].removesuffix("\n")


def _line(text: str, name: str) -> re.Match[str]:
    found = [line for line in _LINE.finditer(text) if line[1] == name]
    if not found:
        raise KeyError(name)
    return found[-1]
