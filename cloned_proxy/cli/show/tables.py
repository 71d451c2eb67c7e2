"""Tables: every column complete in a pipe; at a terminal no wider than the window, coloured, and no word is broken."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from itertools import groupby, zip_longest
from textwrap import wrap
from typing import Final, NamedTuple

from cloned_proxy.cli.show.output import iso_time, paint, put, table, visible
from cloned_proxy.policy.terms.units import rounded_duration

_GAP: Final = 2
_INDENT: Final = 4
_EMPTY: Final = frozenset({"", "-"})


class Cell(NamedTuple):
    """One value of a table."""

    text: str
    """Complete, for a pipe."""
    short: str | None = None
    """For a person at a terminal; None: the same."""
    style: str = ""

    @property
    def shown(self) -> str:
        return visible(self.text if self.short is None else self.short)


type Row = Sequence[Cell | str]


def ago(at: float | None, *, never: str = "-") -> Cell:
    """A time that has passed, in Unix seconds: `3h ago` for people, ISO 8601 in a pipe."""
    return Cell(iso_time(at), never if at is None else passed(at))


def passed(at: float) -> str:
    """How long ago that was, in its largest unit."""
    return f"{_largest(time.time() - at)} ago"


def until(at: float | None) -> Cell:
    """A time that comes, in Unix seconds: `in 3h` for people, ISO 8601 in a pipe."""
    if at is None:
        return Cell("-")
    left = at - time.time()
    return Cell(iso_time(at), f"in {_largest(left)}" if left > 0 else "over")


def when(at: float) -> str:
    """A time that has passed, in a line of text."""
    cell = ago(at)
    return cell.shown if sys.stdout.isatty() else cell.text


def _largest(seconds: float) -> str:
    """The duration in its largest unit."""
    return rounded_duration(seconds).partition(" ")[0]


def put_indented(head: str, text: str, *, margin: int) -> None:
    """One line on stdout; at a terminal as many as its width wants, all but the first behind `margin` blanks.

    `head` takes `margin` columns; it may hold escape sequences.
    """
    room = shutil.get_terminal_size().columns - margin
    first, *more = wrapped(text, room) if sys.stdout.isatty() else [text]
    put(head + first)
    for line in more:
        put(f"{'':<{margin}}{line}")


def wrapped(text: str, width: int) -> list[str]:
    """Lines of whole words, at least one; a word that is longer than the width has a line of its own."""
    return wrap(text, max(1, width), break_long_words=False, break_on_hyphens=False, replace_whitespace=False) or [""]


def show_table(rows: Iterable[Row], headings: Sequence[str], *, group_by: int | None = None) -> None:
    """Prints the rows on stdout.

    At a terminal, columns in which no row says anything are left out, and the values of column `group_by` become lines
    of their own over the rows that share them. A row with a word that leaves the others no room takes several lines.
    """
    cells = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for line in table([[cell.text for cell in row] for row in cells], headings):
            put(line)
        return
    told = [n for n in range(len(headings)) if n != group_by and any(row[n].shown not in _EMPTY for row in cells)]
    columns = [headings[n] for n in told]
    width = shutil.get_terminal_size().columns
    widths = _fit([[row[n] for n in told] for row in cells], columns, width)
    if widths:
        _put_side_by_side([[Cell(heading, style="dim") for heading in columns]], widths)
    for title, members in groupby(cells, key=lambda row: row[group_by].shown if group_by is not None else ""):
        if title:
            put(paint(title, "bold"))
        for fits, some in groupby(([row[n] for n in told] for row in members), key=lambda row: _fits(row, widths)):
            if fits:
                _put_side_by_side(some, widths)
            else:
                _put_below_each_other(some, columns, width)


def _fit(rows: list[list[Cell]], headings: Sequence[str], width: int) -> list[int]:
    """Widths of the columns. Rows with the longest words are left out until the others fit; empty: none does."""
    rows = sorted(rows, key=lambda row: sum(map(_longest_word, row)))
    while rows:
        columns = [[Cell(heading), *column] for heading, column in zip(headings, zip(*rows, strict=True), strict=True)]
        widths = [max(len(cell.shown) for cell in column) for column in columns]
        least = [max(map(_longest_word, column)) for column in columns]
        room = width - _GAP * (len(columns) - 1)
        if sum(least) <= room:
            while sum(widths) > room:  # the widest that can be narrowed wraps at its spaces
                widths[max(range(len(widths)), key=lambda n: (widths[n] > least[n], widths[n]))] -= 1
            return widths
        rows.pop()
    return []


def _fits(row: Sequence[Cell], widths: Sequence[int]) -> bool:
    return bool(widths) and all(_longest_word(cell) <= width for cell, width in zip(row, widths, strict=True))


def _longest_word(cell: Cell) -> int:
    return max(map(len, cell.shown.split(" ")))


def _put_side_by_side(rows: Iterable[Sequence[Cell]], widths: Sequence[int]) -> None:
    """Each row as often as its longest cell takes lines. By hand: rich takes longer to import than `list` to answer."""
    for row in rows:
        pieces = [wrapped(cell.shown, width) for cell, width in zip(row, widths, strict=True)]
        for line in zip_longest(*pieces, fillvalue=""):
            last = max(n for n, text in enumerate(line) if text)
            shown = [
                paint(text, cell.style) + " " * (width - len(text) + _GAP if number < last else 0)
                for number, (text, cell, width) in enumerate(zip(line, row, widths, strict=True))
            ]
            put("".join(shown[: last + 1]))


def _put_below_each_other(rows: Iterable[Sequence[Cell]], headings: Sequence[str], width: int) -> None:
    """The first two values begin a record; the others follow in lines of their own, each under its name."""
    for row in rows:
        put("  ".join(paint(cell.shown, cell.style) for cell in row[:2]))
        named = [
            f"{heading.lower()} {cell.shown}"
            for heading, cell in zip(headings[2:], row[2:], strict=True)
            if cell.shown not in _EMPTY
        ]
        for line in wrapped(", ".join(named), width - _INDENT) if named else []:
            put(f"{'':<{_INDENT}}{paint(line, 'dim')}")
