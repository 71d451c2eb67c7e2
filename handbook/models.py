"""What a pydantic model says of its own keys: type, bounds, default, and the text below each in the source."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Final, Literal, TypeAliasType, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

_PLAIN: Final[dict[Any, str]] = {bool: "`true` or `false`", int: "whole number", float: "number", str: "text"}
_WORDS: Final = {
    "Seconds": "seconds above 0, at most 86,400",
    "LongDuration": "duration, 1s or more",
    "SizeText": "size, such as `512m`",
    "NameAddresses": "`auto`, `off`, or an IPv4 network",
    "FleetName": "text of lower-case letters, digits, `.` and `-`, at most 63",
    "ReplicaName": "text of letters, digits, `.`, `_` and `-`, at most 128",
}
"""Aliases that say more by a word than by what they are made of."""


class MeaningMissingError(Exception):
    """A key of a model without a text below it. The page would have a row that explains nothing."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a document. `model` is the section below it, if it is one."""

    name: str
    kind: str
    default: str
    meaning: str
    model: type[BaseModel] | None
    many: bool
    """Whether the section below is one of a list or a map."""


def keys(model: type[BaseModel], kinds: dict[str, str]) -> Iterator[Key]:
    """The keys of a document in the order of the source.

    `kinds` names the types of keys that a function reads, which the annotation does not know. Raises
    MeaningMissingError.
    """
    meanings = _meanings(model)
    for field, info in model.model_fields.items():
        name = info.alias or field
        if not meanings.get(field):
            raise MeaningMissingError(f"{model.__module__}.{model.__name__}.{field}: write below it what it means")
        annotation = Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation
        below, many = _section(info.annotation)
        kind = kinds.get(f"{model.__name__}.{name}") or _kind(annotation)
        meaning = " ".join(meanings[field].split()).replace("; None:", "; not set:").replace("None:", "Not set:")
        yield Key(name, kind, _default(info), meaning, below, many)


def _meanings(model: type[BaseModel]) -> dict[str, str]:
    """By the name of a field, the text below it, also of the classes that this one is made from."""
    found: dict[str, str] = {}
    for each in reversed(model.__mro__):
        if not issubclass(each, BaseModel) or each is BaseModel:
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(each))).body[0]
        assert isinstance(body, ast.ClassDef)  # noqa: S101  what getsource gives for a class
        for field, behind in zip(body.body, body.body[1:], strict=False):
            match field, behind:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    found[name] = text
                case _:
                    pass
    return found


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    value = info.get_default(call_default_factory=True)
    if value is None or value is PydanticUndefined or isinstance(value, BaseModel):
        return ""
    match value:
        case bool():
            return f"`{str(value).lower()}`"
        case float() if value.is_integer():
            return f"`{value:.0f}`"
        case list():
            return f"`[{', '.join(map(str, value))}]`"
        case _:
            return f"`{value if value != '' else '""'}`"


def _section(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """The model that is written below a key, and whether there are many of it."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    if isinstance(annotation, TypeAliasType):
        return _section(annotation.__value__)
    origin = get_origin(annotation)
    if isinstance(origin, TypeAliasType):
        return _section(get_args(annotation)[0])[0], True
    for part in get_args(annotation) if origin is not Literal else ():
        below, many = _section(part)
        if below is not None:
            return below, many or origin in (list, dict)
    return None, False


def _kind(annotation: Any) -> str:  # noqa: PLR0911  a table of cases
    origin, parts = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, TypeAliasType):
        return _WORDS.get(annotation.__name__) or _kind(annotation.__value__)
    if isinstance(origin, TypeAliasType):  # a list that may be empty
        return f"list of {_kind(parts[0])}"
    if origin is Annotated:
        bounds = ", ".join(_bounds(parts[1:]))
        inner = _kind(parts[0])
        return f"{inner}, {bounds}" if bounds else inner
    if origin is Literal:
        return _or([f"`{value}`" for value in parts])
    if origin in (Union, UnionType):
        return _or([_kind(part) for part in parts if part is not type(None)])
    if origin is list:
        return f"list of {_kind(parts[0])}"
    if origin is dict:
        return f"map of text to {_kind(parts[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    return _PLAIN[annotation]


def _or(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _bounds(metadata: tuple[Any, ...]) -> Iterator[str]:
    for each, behind in zip(metadata, (*metadata[1:], None), strict=True):
        match each, behind:
            case Ge(ge=low), Le(le=high):
                yield f"{low:,} to {high:,}"
                return
            case _:
                pass
        match each:
            case FieldInfo():
                yield from _bounds(tuple(each.metadata))
            case Ge(ge=bound):
                yield f"at least {bound:,}"
            case Gt(gt=bound):
                yield f"above {bound:,}"
            case Le(le=bound) | Lt(lt=bound):
                yield f"at most {bound:,}"
            case MinLen(min_length=bound) if bound:
                yield "not empty"
            case MaxLen(max_length=bound):
                yield f"at most {bound:,} characters"
            case _:  # a function, whose words are in the meaning
                pass
