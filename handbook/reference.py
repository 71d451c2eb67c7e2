"""A page of keys: a table for each section of a YAML document, with an example of each key that the program takes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import BaseModel

from handbook.models import Key, keys
from handbook.site import ROOT

_LONG: Final = 100
_TIME: Final = re.compile(r"!!timestamp '(\S+) ([0-9:]+)Z'|(?<=: )(\d{4}-\d\d-\d\d) ([0-9:]+)\+00:00")


class ExampleMissingError(Exception):
    """A key that no example shows."""


@dataclass(slots=True)
class Section:
    """A heading, what stands below it, and its keys with their examples."""

    title: str
    about: str
    rows: list[tuple[Key, str]] = field(default_factory=list)


def sections(  # noqa: PLR0917  one of them for each thing that a section is made of
    model: type[BaseModel], documents: list[Any], title: str, about: str, kinds: dict[str, str], known: set[type]
) -> Iterator[Section]:
    """The section of a model and, in the order of its keys, those below it.

    `documents` are values of the example at this place; the first that has a key is its example. `known` collects the
    models that have a section already. Raises ExampleMissingError.
    """
    known.add(model)
    section = Section(title, about)
    below: list[Section] = []
    for key in keys(model, kinds):
        values = [each[key.name] for each in documents if isinstance(each, dict) and key.name in each]
        if not values:
            raise ExampleMissingError(f"no example has `{title}` `{key.name}`; write one into handbook/*.yaml")
        section.rows.append((key, "" if key.model else _inline(key.name, values[0])))
        if key.model is not None and key.model not in known:
            inner = [part for value in values for part in (_parts(value) if key.many else [value])]
            place = key.name if title.startswith("(") else f"{title}.{key.name}"
            below += sections(key.model, inner, place, key.meaning, kinds, known)
    yield section
    yield from below


def documents_of(path: Path) -> list[Any]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def intro(page: str) -> str:
    """What stands above what the code says: heading, and how the page is to be read."""
    return (ROOT / "handbook" / "intro" / f"{page}.md.in").read_text(encoding="utf-8")


def page(name: str, found: list[Section]) -> str:
    """The whole page."""
    parts = [intro(name)]
    for section in found:
        parts.append(f"## {section.title if section.title.startswith('(') else f'`{section.title}`'}\n")
        if section.about:
            parts.append(f"{section.about}\n")
        parts.append(table(("Key", "Type", "Default", "Meaning", "Example"), [_row(*row) for row in section.rows]))
    return "\n".join(parts)


def table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A table of Markdown; a bar inside a cell is written as what is none."""
    lines = [heads, ("---",) * len(heads), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '\\|') for cell in row)} |\n" for row in lines)


def _row(key: Key, example: str) -> tuple[str, ...]:
    return f"`{key.name}`", key.kind, key.default, key.meaning, f"`{example}`" if example else ""


def _parts(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else list(value)


def _inline(name: str, value: Any) -> str:
    """One key in the short form of YAML; of a long list its first entry."""
    if isinstance(value, list) and len(str(value)) > _LONG:
        value = value[:1]
    flow = isinstance(value, list | dict)
    text = yaml.safe_dump({name: value}, default_flow_style=flow, sort_keys=False, width=1_000_000, allow_unicode=True)
    text = _TIME.sub(lambda at: f"{at[1] or at[3]}T{at[2] or at[4]}Z", text.strip())
    return text.removeprefix("{").removesuffix("}") if flow else text
