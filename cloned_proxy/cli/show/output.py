"""How data is printed: JSON for machines, plain lines for a pipe, colour only where it is wanted."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

_CODES: Final = {"red": 31, "green": 32, "yellow": 33, "dim": 2, "bold": 1}
VERDICT_STYLES: Final = {"allow": "green", "report": "yellow", "deny": "red"}
_TIMES: Final = frozenset({"at", "created", "decided_at", "expires", "first", "last", "since"})
"""Names under which values hold Unix seconds."""


def wants_colour(stream: IO[str]) -> bool:
    """Whether it is a terminal on which nobody refused colour (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, style: str, *, stream: IO[str] | None = None) -> str:
    """The text in a colour, if the stream (stdout unless another is given) wants it."""
    if not style or not wants_colour(stream or sys.stdout):
        return text
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m"


def put(text: str) -> None:
    """One line of data on stdout, flushed, so that a pipe sees it at once."""
    print(text, flush=True)  # noqa: T201  this is where a program's data is printed


def put_json(value: Any, *, one_line: bool = False) -> None:
    """One JSON value on stdout, in ASCII: what was recorded may hold characters that drive a terminal."""
    put(json_line(value) if one_line else json.dumps(value, indent=2))


def json_line(value: Any) -> str:
    """One JSON value in one line of ASCII."""
    return json.dumps(value)


def visible(text: str) -> str:
    """The text without control characters: a recorded host must not be able to drive somebody's terminal."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def table(rows: Iterable[Sequence[str]], headings: Sequence[str]) -> list[str]:
    """Columns padded to their widest cell."""
    cells = [list(headings), *([visible(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def iso_time(at: float | None, *, exact: bool = False) -> str:
    """Unix seconds as UTC (ISO 8601), to the second or `exact` to the millisecond; "-" for none that a calendar has."""
    try:
        time = None if at is None else datetime.fromtimestamp(at, UTC)
    except (OverflowError, ValueError, OSError):  # of an entry or an export that somebody else has written
        time = None
    if time is None:
        return "-"
    text = time.isoformat(timespec="milliseconds" if exact else "seconds")
    return text.replace("+00:00", "Z")


def with_iso_times(value: Any) -> Any:
    """A JSON value whose Unix seconds, in every depth, have become ISO 8601 in UTC."""
    if isinstance(value, dict):
        return {
            key: iso_time(found, exact=True)
            if key in _TIMES and isinstance(found, (int, float))
            else with_iso_times(found)
            for key, found in value.items()
        }
    return [with_iso_times(each) for each in value] if isinstance(value, list) else value


def short_path(text: str, *, below: Path | None = None) -> str:
    """A text that begins with the absolute path of a file, which becomes relative to `below` or to where one stands."""
    for start in (below, Path.cwd()):
        if start is not None and (rest := text.removeprefix(f"{start}{os.sep}")) != text:
            return rest
    home = os.environ.get("HOME", "").rstrip(os.sep)
    return f"~{text.removeprefix(home)}" if home and text.startswith(f"{home}{os.sep}") else text
