"""Small changes in the text of a TOML file, by tomlkit: what is not changed keeps its comments and layout."""

from __future__ import annotations

import re
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import AbstractTable, InlineTable, Item, Table

from cloned_proxy.runner.mcp.jsonc import Place


def read(text: str) -> Any:
    """The document as plain data. Raises ValueError (TOMLKitError is one)."""
    return tomlkit.parse(text).unwrap()


def raw_value(text: str, place: Place) -> str:
    """The text of the value at `place`, as it is written."""
    item: Item = _table(tomlkit.parse(text), place)[place[-1]]
    return item.as_string()


def raw_of(value: Any) -> str:
    """The text of a value, on one line."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key_of(key)} = {raw_of(each)}" for key, each in value.items()) + " }"
    text: str = tomlkit.item(value).as_string()
    return text


def key_of(name: str) -> str:
    """A key as it is written: bare, or in quotes."""
    return tomlkit.key(name).as_string()


def with_value(text: str, place: Place, raw: str, *, behind: str = "") -> str:  # noqa: ARG001  tomlkit appends
    """The value at `place` replaced by `raw`; a key that is not there yet comes at the end of its table.

    A table that the document does not have yet comes at its end.
    """
    document = tomlkit.parse(text)
    table = _table(document, place)
    value = tomlkit.value(raw)
    if len(place) == 1 and place[0] not in document and isinstance(value, InlineTable):
        lines = [f"{tomlkit.key(name).as_string()} = {raw_of(inner)}\n" for name, inner in value.items()]
        joint = "" if not text or text.endswith("\n") else "\n"
        return f"{text}{joint}[{place[0]}]\n{''.join(lines)}"
    if place[-1] in table:
        trivia = table[place[-1]].trivia
        table[place[-1]] = value
        value.trivia.indent, value.trivia.comment_ws, value.trivia.comment, value.trivia.trail = (
            trivia.indent, trivia.comment_ws, trivia.comment, trivia.trail
        )  # fmt: skip
    else:
        table[place[-1]] = value
    return tomlkit.dumps(document)


def without(text: str, place: Place) -> str:
    """The text without the key at `place`: takes back what `with_value` added."""
    document = tomlkit.parse(text)
    if len(place) == 1 and isinstance(document[place[0]], Table):
        return re.sub(rf"^\[{re.escape(place[0])}\]\n(?:(?!\[).*\n)*", "", text, flags=re.MULTILINE)
    _table(document, place).remove(place[-1])
    return tomlkit.dumps(document)


def _table(document: Any, place: Place) -> Any:
    for name in place[:-1]:
        document = document[name]
        if not isinstance(document, AbstractTable):
            raise TOMLKitError(f"{name} is not a table")
    return document
