"""How data is printed: JSON for machines, aligned columns for people, colour only where it is wanted."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

_CODES: Final = {"red": 31, "green": 32, "yellow": 33, "dim": 2, "bold": 1}


def paint(text: str, style: str) -> str:
    """The text in a colour, if stdout is a terminal that wants it (https://no-color.org)."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not sys.stdout.isatty():
        return text
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m"


def put(text: str) -> None:
    """One line of data on stdout, flushed, so that a pipe sees it at once."""
    print(text, flush=True)  # noqa: T201  this is where a program's data is printed


def put_json(value: Any, *, one_line: bool = False) -> None:
    """One JSON value on stdout, in ASCII: what was recorded may hold characters that drive a terminal."""
    print(json.dumps(value, indent=None if one_line else 2), flush=True)  # noqa: T201  see `put`


def visible(text: str) -> str:
    """The text without control characters: a recorded host must not be able to drive somebody's terminal."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def table(rows: Iterable[Sequence[str]], headings: Sequence[str]) -> list[str]:
    """Columns padded to their widest cell."""
    cells = [list(headings), *([visible(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def iso_time(at: float | None) -> str:
    """Unix seconds as UTC to the second; "-" for none."""
    return "-" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
