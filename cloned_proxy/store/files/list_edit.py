"""One change of one list of a policy file's text, proven to mean that change and nothing else."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from cloned_proxy.policy.terms.problem import DocumentPath
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.files.yaml_edit import Value, put_keys, remove_item, render, replace_item, set_keys
from cloned_proxy.store.files.yaml_reader import read_document


def read_value(value: Any) -> Any:
    """A value as the reader will give it back."""
    return read_document(render(value).encode(), "new entry").data


def change_list(
    path: Path, text: str, place: DocumentPath, change: Callable[[str], str], mean: Callable[[list[Any]], object]
) -> str:
    """Changes the text, and proves that its meaning changed as `mean` changes the list, and nowhere else."""
    expected = read_document(text.encode(), str(path)).data
    if expected is None:
        expected, text = {"version": 1}, text + "version: 1\n"
    mean(list_at(expected, place))
    return _proven(path, lambda: change(text), expected)


def remove_entry(path: Path, text: str, place: DocumentPath, position: int) -> str:
    """Takes one item out of the list at `place`. Raises StoreError."""
    return change_list(path, text, place, lambda t: remove_item(t, place, position), lambda items: items.pop(position))


def rewrite_entry(
    path: Path,
    text: str,
    place: tuple[str, ...],
    position: int,
    *,
    changes: Mapping[str, Value],
    dropped: Collection[str],
) -> str:
    """Sets keys of one entry and drops others; one with only its host left is written as that. Raises StoreError."""
    item = list_at(read_document(text.encode(), str(path)).data, place)[position]
    body: dict[str, Any] = dict(item) if isinstance(item, dict) else {"host": item}
    changes = {name: value for name, value in changes.items() if body.get(name) != read_value(value)}
    if body.keys() & set(dropped):
        kept: dict[str, Value] = {name: value for name, value in {**body, **changes}.items() if name not in dropped}
        whole: Value = body["host"] if kept.keys() == {"host"} else kept
        return change_list(path, text, place, lambda t: replace_item(t, place, position, whole),
                     lambda items: items.__setitem__(position, read_value(whole)))  # fmt: skip
    if not changes:
        return text
    return change_list(path, text, place, lambda t: set_keys(t, place, position, changes),
                 lambda items: items.__setitem__(position, {**body, **read_value(changes)}))  # fmt: skip


def put_values(path: Path, text: str, place: tuple[str, ...], values: Mapping[str, Value]) -> str:
    """Sets keys of the mapping at `place`, which is made where there is none; proven as `change_list` does it.

    Raises StoreError.
    """
    expected = read_document(text.encode(), str(path)).data
    mapping = _mapping_at(expected, place)
    changes = {name: value for name, value in values.items() if mapping.get(name) != read_value(value)}
    mapping |= read_value(changes) if changes else {}
    return _proven(path, lambda: put_keys(text, place, changes), expected)


def _proven(path: Path, edit: Callable[[], str], expected: object) -> str:
    """The text that `edit` gives, once it is read again and says what is expected. Raises StoreError."""
    try:
        edited = edit()
        same = read_document(edited.encode(), str(path)).data == expected
    except (ValueError, IndexError, StoreError) as error:
        raise StoreError(f"{path}: its layout cannot be edited safely ({error}); edit it by hand") from error
    if not same:
        raise StoreError(f"{path}: its layout cannot be edited safely; edit it by hand")
    return edited


def _mapping_at(document: Any, place: tuple[str, ...]) -> dict[str, Any]:
    for key in place:
        document = _filled(document, key, {})
    found: dict[str, Any] = document
    return found


def list_at(document: Any, path: DocumentPath) -> list[Any]:
    """The list at `path`, made where there is none, or nothing below its key."""
    for key in path[:-1]:
        document = document[key] if isinstance(key, int) else _filled(document, key, {})
    listed: list[Any] = _filled(document, path[-1], [])
    return listed


def _filled(mapping: dict[str | int, Any], key: str | int, empty: Any) -> Any:
    if mapping.get(key) is None:
        mapping[key] = empty
    return mapping[key]


def text_diff(old: str, new: str, name: str) -> str:
    """A unified diff of two texts of one file; "" when they are the same."""
    lines = difflib.unified_diff(old.splitlines(keepends=True), new.splitlines(keepends=True), name, name)
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)
