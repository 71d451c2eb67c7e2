"""A large JSON object by its members, each value as the bytes that the registry wrote: pure.

msgspec checks the whole text against RFC 8259 while it looks for the end of a value, and makes no objects of what it
passes over. Whoever writes an object anew from these members writes each name once and each value byte for byte, so
that the next reader sees what was examined.
"""

from __future__ import annotations

import re
from typing import Any, Final

from msgspec import DecodeError, Raw
from msgspec.json import Decoder

_ESCAPE: Final = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)"
)
"""One escape sequence; the group is half a surrogate pair without the other half."""


class _Name:
    """The name of a member, equal to no other one: a plain dict would hide that a name is there twice."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


def _name(_kind: type, text: Any) -> _Name:
    return _Name(text)


type Text = bytes | bytearray | Raw

_RAW: Final = Decoder(dict[_Name, Raw], dec_hook=_name)
_READ: Final = Decoder(dict[_Name, Any], dec_hook=_name)


def members(text: Text) -> dict[str, Raw]:
    """The values of an object as they are written, in their order. Raises ValueError."""
    return _members(text, _RAW)


def values(text: Text) -> dict[str, Any]:
    """The values of an object, read. Raises ValueError."""
    return _members(text, _READ)


def whole_characters(text: bytes | bytearray) -> bytes | bytearray:
    r"""The document with U+FFFD for each `\ud83d` that has lost its other half: no character, and msgspec refuses it.

    JavaScript writes such a thing where it has cut a text in two, a readme for example.
    """
    return _ESCAPE.sub(lambda found: b"\\ufffd" if found[1] else found[0], text)


def _members[T](text: Text, decoder: Decoder[dict[_Name, T]]) -> dict[str, T]:
    try:
        named = decoder.decode(text)
    except (DecodeError, RecursionError) as error:
        raise ValueError("no JSON object") from error
    found = {name.text: value for name, value in named.items()}
    if len(found) != len(named):
        raise ValueError("a name is there twice")
    return found
