"""What people get wrong in YAML, in our words: where it is, and what to write instead.

A parser says what it expected in its own grammar. Most slips are one of a dozen, and the text at the parser's marks
tells which: libyaml and the pure-Python parser differ in their words, not in their marks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import yaml

_WIDEST: Final = 100
_WORD: Final = re.compile(r"[^\s,\[\]{}#]*")
_NEEDS_QUOTES: Final = ("while scanning an alias", "while scanning an anchor", "while scanning a tag",
                        "while scanning a block scalar", "while scanning a directive")  # fmt: skip
_IN_BRACKETS: Final = ("while parsing a flow sequence", "while parsing a flow mapping")
_IN_BLOCK: Final = ("while parsing a block mapping", "while parsing a block collection")
_DASH: Final = re.compile(r"-\s+")


@dataclass(frozen=True, slots=True)
class Slip:
    line: int
    """1-based."""
    column: int
    """0-based, in characters."""
    message: str
    """What is wrong and what to write instead."""

    def shown(self, text: str) -> str:
        """The line with a caret below the place; a part of a long line, each tab as one arrow."""
        line = _lines(text)[self.line - 1].replace("\t", "→")
        start = max(0, self.column - _WIDEST // 2)
        return f"    {line[start : start + _WIDEST]}\n    {' ' * (self.column - start)}^"


def slip_of(text: str, error: yaml.MarkedYAMLError) -> Slip:
    """What the parser stumbled over."""
    lines, mark, begun = _lines(text), error.problem_mark or error.context_mark, error.context_mark
    if mark is None:
        return Slip(1, 0, _parsers_words(error))
    row = min(mark.line, len(lines) - 1)
    indent = lines[row][: len(lines[row]) - len(lines[row].lstrip())]
    if "\t" in indent:
        return Slip(row + 1, indent.index("\t"), "a tab indents this line, and YAML takes spaces only; write spaces")
    if begun is not None and begun.line < len(lines):
        rest = lines[begun.line][begun.column :]
        if (message := _about_the_beginning(error, rest, row + 1)) is not None:
            return Slip(begun.line + 1, begun.column, message)
    return _about_the_place(error, lines, row, mark.column)


def _about_the_beginning(error: yaml.MarkedYAMLError, rest: str, seen: int) -> str | None:
    """About something that began at `rest` and did not go on as it must; None for the other slips."""
    context, problem = error.context or "", error.problem or ""
    if context in _NEEDS_QUOTES:
        return _quote(rest)
    if context in _IN_BRACKETS:
        return _bracket(rest[:1], seen)
    if "end of stream" in problem and "scalar" in context:
        return "the quote that opens here is never closed; close it at the end of the text"
    if context == "while scanning a simple key":
        return "this is neither `key: value` nor `- entry`; write a colon behind the key"
    return None


def _about_the_place(error: yaml.MarkedYAMLError, lines: list[str], row: int, column: int) -> Slip:
    """About what stands where the parser gave up."""
    context, problem, line = error.context or "", error.problem or "", lines[row]
    if context in _IN_BLOCK:
        return Slip(row + 1, _column(line), _indent(lines, row, in_list=context.endswith("collection")))
    if context == "while scanning for the next token":
        return Slip(row + 1, column, _quote(line[column:]))
    if "escape" in problem:
        return Slip(row + 1, column, "a backslash in double quotes begins an escape; write single quotes: '…'")
    if "mapping values are not allowed" in problem and ": " in line[:column]:
        return Slip(row + 1, column, "a second `: ` in one line; quote the value that holds it")
    if "mapping values are not allowed" in problem:
        return Slip(row + 1, _column(line), _indent(lines, row))
    return Slip(row + 1, column, _parsers_words(error))


def _parsers_words(error: yaml.MarkedYAMLError) -> str:
    return f"not valid YAML: {error.problem or error.context}"


def _lines(text: str) -> list[str]:
    """The lines of a text as the parser counts them."""
    return re.split(r"\r\n|[\r\n\x85\u2028\u2029]", text)


def _quote(rest: str) -> str:
    match = _WORD.match(rest)
    word = (match.group() if match is not None else "") or rest[:1]
    return f"what begins with {word[:1]} needs quotes; write '{word}'"


def _bracket(opening: str, seen: int) -> str:
    closing = {"[": "]", "{": "}"}.get(opening, "]")
    return f"the {opening} that opens here is not closed: line {seen} has neither a comma nor {closing}; add {closing}"


def _indent(lines: list[str], row: int, *, in_list: bool = False) -> str:
    """About a line that begins where nothing above it does."""
    ours, open_columns = _column(lines[row]), _open_columns(lines, row)
    if ours in open_columns and in_list:
        return "this stands among the entries of a list; begin it with `- `, or move it under the entry it belongs to"
    *others, last = open_columns or [0]
    fits = f"{', '.join(map(str, others))} or {last}" if others else str(last)
    return f"this line is indented by {ours}, and what stands above it wants {fits}; move it"


def _open_columns(lines: list[str], row: int) -> list[int]:
    """Where a line at `row` may begin: the columns of the blocks that are open there, the innermost first."""
    columns: list[int] = []
    least = len(lines[row]) + max((len(line) for line in lines[:row]), default=0)
    for line in reversed(lines[:row]):
        body = line.strip()
        if not body or body.startswith("#") or _column(line) >= least:
            continue
        least = _column(line)
        dash = _DASH.match(body)
        if dash is not None and ":" in body:
            columns.append(least + dash.end())
        columns.append(least)
    return columns


def _column(line: str) -> int:
    return len(line) - len(line.lstrip(" "))
