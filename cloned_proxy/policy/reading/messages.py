"""What is wrong with a policy document, in the words of the file and with what to write instead."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from cloned_proxy.policy.reading.documents import (
    GlobalDocument,
    InjectDocument,
    LimitsDocument,
    RegistryDocument,
    TestDocument,
    ToolDocument,
)


def kind_of(value: object) -> str:
    """What a value is, for people."""
    return {
        list: "a list",
        str: "a text",
        bool: "yes or no",
        int: "a number",
        float: "a number",
        dict: "a mapping",
    }.get(type(value), "nothing" if value is None else f"a {type(value).__name__}")


def not_a_host(value: object) -> str:
    """About a value where a host should be."""
    if isinstance(value, bool):
        return "YAML reads on, off, yes and no as true and false; quote the host: 'on'"
    if isinstance(value, int | float):
        return f"{value!r} is a number, not a host; quote it if it is a name, and write addresses as '192.0.2.1'"
    return f"a host is a text such as api.example.com, not {kind_of(value)}"


def explain(detail: ErrorDetails, model: type[BaseModel], where: Sequence[str | int]) -> str:
    """A pydantic error in the words of the file, with what to write instead."""
    key = where[-1] if where else ""
    value = detail["input"]
    match detail["type"]:
        case "extra_forbidden":
            return _unknown_key(str(key), _known_keys(model, where[:-1]))
        case "missing":
            return "write 'version: 1' first" if key == "version" else f"'{key}' is missing; add '{key}: ...'"
        case "literal_error":
            allowed = detail.get("ctx", {}).get("expected", "")
            quote = "; YAML reads on, off, yes and no as true and false" if isinstance(value, bool) else ""
            return f"{value!r} is not known here; write {allowed}{quote}"
        case "value_error":
            return detail["msg"].removeprefix("Value error, ")
        case _:
            return _wanted(detail, value) or _bounds(detail, value)


def _wanted(detail: ErrorDetails, value: object) -> str:
    """About a value of another kind than the one that belongs there; "" for another error."""
    match detail["type"]:
        case "model_type" | "model_attributes_type" | "dict_type":
            wanted, fix = "a mapping", f"write key: value{_glued(value)}"
        case "list_type":
            wanted, fix = "a list", f"write [...] or one '- ' line for each entry{_glued(value)}"
        case "string_type":
            wanted, fix = "a text", f"quote it: '{value}'"
        case "bool_type":
            wanted, fix = "true or false", f"not {value!r}"
        case "int_type":
            wanted, fix = "a whole number", "write digits alone"
        case _:
            return ""
    return f"{wanted} is wanted here, and this is {kind_of(value)}; {fix}"


def _bounds(detail: ErrorDetails, value: object) -> str:
    """About a value that is too large, too small or too short; the parser's own words for what remains."""
    kind = detail["type"]
    if kind in ("greater_than_equal", "less_than_equal"):
        limit = next(iter(detail.get("ctx", {}).values()), "")
        return f"{value!r} is out of bounds; write {limit} or {'more' if kind.startswith('g') else 'less'}"
    if kind == "too_short":
        return "an empty list allows nothing; leave the key out, or write at least one entry"
    return f"{detail['msg'][:1].lower()}{detail['msg'][1:]}"


def _glued(value: object) -> str:
    """What is missing in a text that was meant to be a list or a mapping."""
    if isinstance(value, str) and value.startswith("-"):
        return "; a space follows the dash"
    if isinstance(value, str) and ":" in value:
        return "; a space follows the colon"
    return ""


def _unknown_key(key: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    meant = f"did you mean '{close[0]}'?" if close else f"known here: {', '.join(known)}"
    return f"unknown key '{key}'; {meant}"


_NESTED: Final[Mapping[str, type[BaseModel]]] = MappingProxyType(
    {"global": GlobalDocument, "limits": LimitsDocument, "inject": InjectDocument, "registry": RegistryDocument}
)


def _known_keys(model: type[BaseModel], where: Sequence[str | int]) -> list[str]:
    """The keys of the struct at `where` below `model`."""
    if where[:1] == ("tools",):
        model = ToolDocument
    elif where[:1] == ("tests",):
        model = TestDocument
    model = _NESTED.get(str(where[-1]), model) if where else model
    return [info.alias or name for name, info in model.model_fields.items()]
