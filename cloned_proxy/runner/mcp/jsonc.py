"""Small changes in the text of a JSON file that people write by hand: what is not changed keeps every byte.

JSON with comments and trailing commas, as VS Code and others read it. Both are overlaid with spaces first; the text is
then plain JSON of the same length, and the standard library's reader says where each value begins and ends in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

_STRING: Final = r'"(?:[^"\\\n]|\\.)*"'
_COMMENT: Final = r"//[^\n]*|/\*.*?\*/"
_COMMENTS: Final = re.compile(rf"({_STRING})|{_COMMENT}", re.DOTALL)
_TRAILING: Final = re.compile(rf"({_STRING})|,(?=\s*[}}\]])", re.DOTALL)
_NOT_LINES: Final = re.compile(r"[^\r\n]")
_SPACE: Final = re.compile(r"[ \t\r\n]*")
_DECODER: Final = json.JSONDecoder()

type Place = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class JsonMember:
    """One member of an object: where its key begins, and where its value begins and ends."""

    key: int
    start: int
    end: int


def read(text: str) -> Any:
    """The value of the whole text. Raises ValueError, with line and column where that is known."""
    return json.loads(_plain(text), object_pairs_hook=_without_doubles)


def members(text: str, place: Sequence[str]) -> dict[str, JsonMember]:
    """The members of the object at `place`, in their order. Raises ValueError where there is no object."""
    plain = _plain(text)
    start = _skip(plain, 0)
    for name in place:
        start = _members(plain, start)[name].start
    return _members(plain, start)


def raw_value(text: str, place: Place) -> str:
    """The text of the value at `place`, as it is written."""
    found = members(text, place[:-1])[place[-1]]
    return text[found.start : found.end]


def raw_of(value: Any) -> str:
    """The text of a value, on one line."""
    return json.dumps(value, ensure_ascii=False)


def with_value(text: str, place: Place, raw: str, *, behind: str = "") -> str:
    """The value at `place` replaced by `raw`; a member that is not there yet comes behind `behind`, or at the end."""
    here = members(text, place[:-1])
    if (old := here.get(place[-1])) is not None:
        return text[: old.start] + raw + text[old.end :]
    added = f"{raw_of(place[-1])}: {raw}"
    if not here:
        brace = _object_start(text, place[:-1]) + 1
        return text[:brace] + added + text[brace:]
    neighbour = here.get(behind) or list(here.values())[-1]
    indent = text[len(text[: neighbour.key].rstrip()) : neighbour.key]
    return f"{text[: neighbour.end]},{indent or ' '}{added}{text[neighbour.end :]}"


def without(text: str, place: Place) -> str:
    """The text without the member at `place`: takes back what `with_value` added."""
    here = list(members(text, place[:-1]).items())
    position = [name for name, _ in here].index(place[-1])
    gone = here[position][1]
    if position:
        return text[: here[position - 1][1].end] + text[gone.end :]
    return text[: gone.key] + text[here[1][1].key if len(here) > 1 else gone.end :]


def _object_start(text: str, place: Place) -> int:
    return members(text, place[:-1])[place[-1]].start if place else _skip(_plain(text), 0)


def _plain(text: str) -> str:
    """JSON of the same length: comments and trailing commas become spaces."""
    if text.startswith("\ufeff"):
        text = " " + text[1:]
    uncommented = _COMMENTS.sub(lambda found: found[1] or _NOT_LINES.sub(" ", found[0]), text)
    return _TRAILING.sub(lambda found: found[1] or " ", uncommented)


def _members(plain: str, start: int) -> dict[str, JsonMember]:
    if plain[start : start + 1] != "{":
        raise ValueError("there is no object here")
    found: dict[str, JsonMember] = {}
    position = _skip(plain, start + 1)
    while plain[position] != "}":
        name, end = _DECODER.raw_decode(plain, position)
        value = _skip(plain, _skip(plain, end) + 1)  # behind the colon
        _, last = _DECODER.raw_decode(plain, value)
        found[name] = JsonMember(position, value, last)
        position = _skip(plain, last)
        if plain[position] == ",":
            position = _skip(plain, position + 1)
    return found


def _skip(plain: str, position: int) -> int:
    found = _SPACE.match(plain, position)
    return found.end() if found is not None else position


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        double = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {double!r} stands twice in one object; take one away")
    return found
