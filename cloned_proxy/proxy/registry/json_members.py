"""The members of a large JSON object one by one, with the place of each in the text: pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from json import decoder
from typing import Any, Final, cast

_BLANKS: Final = (" ", "\t", "\n", "\r")
_BLANK: Final = re.compile(r"[ \t\n\r]*")
_scanner: Final[Any] = json.JSONDecoder()  # its C functions have no types
_string_at: Final = cast("Callable[[str, int], tuple[str, int]]", vars(decoder)["scanstring"])


def value_at(text: str, at: int) -> tuple[Any, int]:
    """The value that begins at `at`, and where it ends. Raises ValueError."""
    try:
        return cast("tuple[Any, int]", _scanner.scan_once(text, at))
    except (StopIteration, RecursionError, IndexError) as error:
        raise ValueError("no JSON value") from error


def behind_blanks(text: str, at: int) -> int:
    """Where the next token is; the length of the text when there is none."""
    match = _BLANK.match(text, at)
    return match.end() if match is not None else at


class Members:
    """Iterates over (key, place of its quotation mark); `at` is then where the value begins.

    Whoever iterates moves `at` behind the value. A key that is there twice is an error: two readers could each take
    another one of them.
    """

    def __init__(self, text: str, at: int) -> None:
        """`at` is the place of the opening brace."""
        self._text = text
        self.at = at

    def __iter__(self) -> Iterator[tuple[str, int]]:
        """Raises ValueError."""
        text, seen = self._text, set[str]()
        self._take("{")
        if self._next() == "}":
            self._take("}")
            return
        while True:
            start = self.at
            self._take('"')
            key, self.at = _string_at(text, self.at)
            if key in seen:
                raise ValueError("a key is there twice")
            seen.add(key)
            if not text.startswith(":", self.at):
                self._next()
            self._take(":")
            if text.startswith(_BLANKS, self.at):
                self._next()
            yield key, start
            if text.startswith(',"', self.at):  # as registries write it: nothing to skip
                self.at += 1
                continue
            if self._next() == "}":
                self._take("}")
                return
            self._take(",")
            self._next()

    def _next(self) -> str:
        self.at = behind_blanks(self._text, self.at)
        return self._text[self.at : self.at + 1]

    def _take(self, expected: str) -> None:
        if not self._text.startswith(expected, self.at):
            raise ValueError(f"no {expected} where it should be")
        self.at += 1
