"""Small changes in the text of a YAML file: what is not changed keeps every byte, comments and order included.

Positions come from libyaml's marks; text is put in or cut out there and never dumped again. The caller reads the
result back and compares it with what it meant, so a layout that this module misjudges is an error, not a wrong file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

import yaml

from cloned_proxy.policy.terms.problem import DocumentPath
from cloned_proxy.store.files.yaml_reader import reads_as_text

type Value = str | int | datetime | Sequence[Value] | Mapping[str, Value]

_PARSER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NULL: Final = "tag:yaml.org,2002:null"
_PLAIN: Final = re.compile(r"[A-Za-z0-9_/](?:[A-Za-z0-9_./@ -]*[A-Za-z0-9_./@-])?")


def render(value: Value) -> str:
    """One value on one line, quoted only where YAML would read it as something else."""
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) and reads_as_text(value) else json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{render(key)}: {render(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ", ".join(render(item) for item in value) + "]"
    return str(value)


def add_items(text: str, path: Sequence[str], items: Sequence[Value]) -> str:
    """Appends items to the list at `path`; the list and the mappings above it are made where they are missing."""
    place = _find(text, path)
    if place is None:
        return _with_final_newline(text) + _block(path, items, 0)
    if place.missing:
        return _add_keys(text, place, items)
    node = place.node
    if _is_empty(node):
        return _fill_empty(text, place, (), items)
    if not isinstance(node, yaml.SequenceNode):
        raise ValueError(f"{'.'.join(path)} is not a list")  # noqa: TRY004  a layout, not a type
    last = _end(text, node.value[-1])
    if node.flow_style:
        return text[:last] + "".join(f", {render(item)}" for item in items) + text[last:]
    dash = text.rindex("-", 0, _start(node.value[0]))
    column = dash - _line_start(text, dash)
    return _insert_lines(text, last, _block((), items, column))


def add_section(text: str, path: Sequence[str], section: Mapping[str, Value]) -> str:
    """Adds a mapping at `path`, where nothing may stand yet; the mappings above it are made where they are missing."""
    place = _find(text, path)
    if place is None:
        return _with_final_newline(text) + _block(path, section, 0)
    if not place.missing:
        raise ValueError(f"{'.'.join(path)} is there already")
    return _add_keys(text, place, section)


def put_keys(text: str, path: Sequence[str], values: Mapping[str, Value]) -> str:
    """Sets keys of the mapping at `path`; it and the mappings above it are made where they are missing."""
    for key, value in values.items():
        place = _find(text, (*path, key))
        if place is None:
            text = _with_final_newline(text) + _block(path, {key: value}, 0)
        elif place.missing:
            text = _add_keys(text, replace(place, missing=place.missing[:-1]), {key: value})
        else:
            text = text[: _start(place.node)] + render(value) + text[_end(text, place.node) :]
    return text


def set_keys(text: str, path: Sequence[str], index: int, changes: Mapping[str, Value]) -> str:
    """Sets keys of one list item; a plain host becomes a mapping first."""
    for key, value in changes.items():
        item = _item(text, path, index)
        if isinstance(item, yaml.ScalarNode):
            new = render({"host": item.value, key: value})
            text = text[: _start(item)] + new + text[_end(text, item) :]
            continue
        old = next((node for name, node in item.value if name.value == key), None)
        last = _end(text, item.value[-1][1])
        if old is not None:
            text = text[: _start(old)] + render(value) + text[_end(text, old) :]
        elif item.flow_style:
            text = text[:last] + f", {key}: {render(value)}" + text[last:]
        else:
            first = _start(item.value[0][0])
            text = _insert_lines(text, last, " " * (first - _line_start(text, first)) + f"{key}: {render(value)}\n")
    return text


def replace_item(text: str, path: Sequence[str], index: int, value: Value) -> str:
    """Writes one list item anew."""
    item = _item(text, path, index)
    return text[: _start(item)] + render(value) + text[_end(text, item) :]


def remove_item(text: str, path: DocumentPath, index: int) -> str:
    """Takes one item out of the list at `path`; an emptied list stays as `[]`."""
    place = _find(text, path)
    if place is None or place.missing or not isinstance(place.node, yaml.SequenceNode):
        raise ValueError(f"{path} is not a list")
    items = place.node.value
    start, end = _start(items[index]), _end(text, items[index])
    if place.node.flow_style:
        if index + 1 < len(items):
            end = _start(items[index + 1])
        elif index > 0:
            start = _end(text, items[index - 1])
        return text[:start] + text[end:]
    text = text[: _line_start(text, start)] + text[_line_end(text, end) :]
    if len(items) > 1 or place.key is None:
        return text
    colon = text.index(":", _end(text, place.key)) + 1
    return text[:colon] + " []" + text[colon:]


@dataclass(frozen=True, slots=True)
class _Place:
    node: _Node
    """The deepest node of the path that exists."""
    key: yaml.ScalarNode | None
    """The key that holds the node; None at the root."""
    in_flow: bool
    """Whether it stands inside `{}` or `[]`."""
    missing: tuple[str, ...]


type _Content = Sequence[Value] | Mapping[str, Value]
"""What comes below a key: items of a list, or the keys of a mapping."""

type _Node = yaml.ScalarNode | yaml.CollectionNode


def _find(text: str, path: Sequence[str | int]) -> _Place | None:
    node: _Node | None = yaml.compose(text, Loader=_PARSER)  # type: ignore[assignment]  # nodes are of these two kinds
    if node is None:
        return None
    key: yaml.ScalarNode | None = None
    in_flow = False
    for depth, name in enumerate(path):
        pairs = node.value if isinstance(node, yaml.MappingNode) else ()
        if isinstance(name, int):
            found = (None, node.value[name]) if isinstance(node, yaml.SequenceNode) else None
        else:
            found = next((pair for pair in pairs if pair[0].value == name), None)
        if found is None:
            return _Place(node, key, in_flow, tuple(map(str, path[depth:])))
        in_flow = in_flow or (isinstance(node, yaml.CollectionNode) and bool(node.flow_style))
        key, node = found
    return _Place(node, key, in_flow, ())


def _item(text: str, path: Sequence[str], index: int) -> _Node:
    place = _find(text, path)
    if place is None or place.missing or not isinstance(place.node, yaml.SequenceNode):
        raise ValueError(f"{'.'.join(path)} is not a list")
    item: _Node = place.node.value[index]
    return item


def _add_keys(text: str, place: _Place, content: _Content) -> str:
    node = place.node
    if _is_empty(node):
        return _fill_empty(text, place, place.missing, content)
    if not isinstance(node, yaml.MappingNode):
        raise ValueError(f"{'.'.join(place.missing) or 'a key'} has no mapping to go into")  # noqa: TRY004  a layout, not a type
    last = _end(text, node.value[-1][1])
    if node.flow_style:
        return text[:last] + f", {render(_nest(place.missing, content))[1:-1]}" + text[last:]
    first = _start(node.value[0][0])
    return _insert_lines(text, last, _block(place.missing, content, first - _line_start(text, first)))


def _is_empty(node: _Node) -> bool:
    """Whether there is `[]`, `{}`, `null`, or nothing but comments behind a key."""
    return not node.value or (isinstance(node, yaml.ScalarNode) and node.tag == _NULL)


def _fill_empty(text: str, place: _Place, keys: Sequence[str], content: _Content) -> str:
    """What is empty gets content: lines of its own below a block key, in place otherwise."""
    start, end = _start(place.node), _end(text, place.node)
    if not place.node.value and isinstance(place.node, yaml.ScalarNode) and place.key is not None:
        # The mark of nothing lies somewhere behind the key.
        start = end = text.index(":", _end(text, place.key)) + 1
        if place.in_flow:
            return f"{text[:start]} {render(_nest(keys, content))}{text[end:].lstrip(' ')}"
    if place.in_flow or place.key is None:
        return text[:start] + render(_nest(keys, content)) + text[end:]
    column = _start(place.key) - _line_start(text, _start(place.key))
    before = text[:start].rstrip(" ")
    return _insert_lines(before + text[end:], len(before), _block(keys, content, column + 2))


def _nest(keys: Sequence[str], content: _Content) -> Value:
    nested: Value = dict(content) if isinstance(content, Mapping) else list(content)
    for key in reversed(keys):
        nested = {key: nested}
    return nested


def _block(keys: Sequence[str], content: _Content, column: int) -> str:
    lines = [f"{' ' * (column + 2 * depth)}{render(key)}:\n" for depth, key in enumerate(keys)]
    indent = " " * (column + 2 * len(keys))
    if isinstance(content, Mapping):
        told = [f"{render(key)}: {render(value)}" for key, value in content.items()]
    else:
        told = [f"- {render(item)}" for item in content]
    return "".join((*lines, *(f"{indent}{line}\n" for line in told)))


def _start(node: yaml.Node) -> int:
    return node.start_mark.index if node.start_mark is not None else 0


def _end(text: str, node: yaml.Node) -> int:
    """The place behind the last character of a node; a block's own mark lies behind the comments that follow it."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(text, last[1] if isinstance(last, tuple) else last)
    end = node.end_mark.index if node.end_mark is not None else 0
    return len(text[_start(node) : end].rstrip()) + _start(node)


def _line_start(text: str, position: int) -> int:
    return text.rfind("\n", 0, position) + 1


def _line_end(text: str, position: int) -> int:
    """The place behind the newline of the line that holds `position`."""
    newline = text.find("\n", position)
    return len(text) if newline < 0 else newline + 1


def _insert_lines(text: str, position: int, lines: str) -> str:
    """Puts whole lines below the line that holds `position`, in the file's own line endings."""
    end = _line_end(text, position)
    if "\r\n" in text:
        lines = lines.replace("\n", "\r\n")
    return _with_final_newline(text[:end]) + lines + text[end:]


def _with_final_newline(text: str) -> str:
    return text if not text or text.endswith("\n") else text + "\n"
