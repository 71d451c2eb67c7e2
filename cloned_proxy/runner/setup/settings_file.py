"""One settings file of another program, and changes to it that are not written yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Self

from cloned_proxy.runner.mcp import jsonc, toml
from cloned_proxy.runner.mcp.client_file import MAX_BYTES, ClientFile, empty_text
from cloned_proxy.runner.mcp.jsonc import Place
from cloned_proxy.runner.setup import gitconfig, lines
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.files.files import read_regular_file
from cloned_proxy.store.files.list_edit import text_diff


@dataclass(frozen=True, slots=True)
class Setting:
    """One value that is to stand in the file."""

    place: Place
    value: Any
    keep: bool = False
    """Whatever stands there already stays."""


@dataclass(slots=True)
class SettingsFile(ClientFile):
    """A file that may not be there yet: then it begins empty and is made by `save`, for its owner alone."""

    @classmethod
    def open(cls, path: Path) -> Self:
        """Raises StoreError for a file that cannot be read, or is not what its name says."""
        target = path.resolve()
        language = _language_of(target)
        if not target.exists():
            return cls(target, b"", empty_text(language), language, created=True)
        raw = read_regular_file(target, limit=MAX_BYTES, what="settings file")
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise StoreError(f"{path}: not UTF-8; save it as UTF-8") from error
        file = cls(target, raw, text, language)
        file.document()
        return file

    def apply(self, settings: Sequence[Setting]) -> None:
        """Sets what does not stand there yet. Raises StoreError where that could not be undone."""
        document, wanted = self.document(), dict[Place, Any]()
        for setting in settings:
            place, value = setting.place, setting.value
            known = _at(document, place)
            if known == value or (setting.keep and known is not None):
                continue
            if self.language is not gitconfig:  # git makes its sections itself
                place, value = _missing(document, place, value)
            wanted[place] = _merged(wanted[place], value) if place in wanted else value
        for place, value in wanted.items():
            try:
                self.set(place, value)
            except ValueError as error:
                raise StoreError(f"{self.path}: {'.'.join(place)}: {error}; put it right by hand") from error

    def diff(self) -> str:
        """What `save` would change, as a unified diff."""
        return text_diff(self.original.decode(), self.text, str(self.path))


def _language_of(path: Path) -> ModuleType:
    """Git's files have no name of their own: they are what is left."""
    known = {".json": jsonc, ".toml": toml, ".properties": lines, ".env": lines}
    return known.get(path.suffix or path.name, gitconfig)


def _missing(document: Any, place: Place, value: Any) -> tuple[Place, Any]:
    """Where the first object of the way is missing, and what has to stand there."""
    for depth, name in enumerate(place[:-1], 1):
        document = document.get(name) if isinstance(document, Mapping) else None
        if document is None:
            for inner in reversed(place[depth:]):
                value = {inner: value}
            return place[:depth], value
    return place, value


def _merged(one: Any, other: Any) -> Any:
    """Two objects as one; settings of one program do not contradict each other."""
    if not isinstance(one, dict) or not isinstance(other, dict):
        return other
    return {**one, **{name: _merged(one[name], inner) if name in one else inner for name, inner in other.items()}}


def _at(document: Any, place: Place) -> Any:
    for name in place:
        document = document.get(name) if isinstance(document, Mapping) else None
    return document
