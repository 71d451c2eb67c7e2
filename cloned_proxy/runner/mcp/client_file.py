"""The files in which MCP clients keep their servers: where the servers stand in them, and undoable changes there.

Claude Code (`.mcp.json`, `~/.claude.json`), Claude Desktop, Cursor and Gemini have `mcpServers`, VS Code has `servers`,
Codex has TOML with `mcp_servers`. The file's own words decide, not its name.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from cloned_proxy.policy.secrets.redact import hide_arguments
from cloned_proxy.runner.mcp import jsonc, toml
from cloned_proxy.runner.mcp.jsonc import Place
from cloned_proxy.store.files.atomic import write_atomically
from cloned_proxy.store.files.errors import ConflictError, StoreError
from cloned_proxy.store.files.files import read_regular_file
from cloned_proxy.store.files.list_edit import text_diff

MAX_BYTES: Final = 64 * 1024 * 1024
"""`~/.claude.json` holds a history as well, and grows."""
_DIRECTORIES_OF_CODE: Final = (".vscode", "User")
"""VS Code's directories of a folder and of a profile; both have a `mcp.json`."""
_SECTIONS: Final = (("mcpServers",), ("servers",), ("mcp_servers",), ("mcp", "servers"))


@dataclass(frozen=True, slots=True)
class ServerEntry:
    """One server of a client's file."""

    place: Place
    body: Mapping[str, Any]
    project: str = ""
    """The directory for which it stands in `~/.claude.json`; "" for every one."""

    @property
    def name(self) -> str:
        return self.place[-1]


@dataclass(frozen=True, slots=True)
class ClientFileChange:
    """One value that was set: what stood there, as written (None: nothing), and what stands there now."""

    place: Place
    before: str | None
    after: Any


@dataclass(slots=True)
class ClientFile:
    """The text of one file, and changes to it that are not written yet."""

    path: Path
    """Absolute, links followed: the file itself."""
    original: bytes
    text: str
    language: ModuleType
    """`jsonc` or `toml`: both have the same functions."""
    changes: list[ClientFileChange] = field(default_factory=list)
    created: bool = False
    """Whether the file is not there yet: `save` makes it, for its owner alone."""

    @classmethod
    def load(cls, path: Path, *, create: bool = False) -> ClientFile:
        """With `create` an absent file begins empty. Raises StoreError for one that cannot be read, with the line."""
        if create and not path.exists():
            language = toml if path.suffix == ".toml" else jsonc
            return cls(path.resolve(), b"", empty_text(language), language, created=True)
        raw = read_regular_file(path, limit=MAX_BYTES, what="client's configuration")
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise StoreError(f"{path}: not UTF-8; save it as UTF-8") from error
        found = cls(path.resolve(), raw, text, toml if path.suffix == ".toml" else jsonc)
        found.document()
        return found

    def document(self) -> dict[str, Any]:
        """What the text says. Raises StoreError."""
        try:
            found = self.language.read(self.text)
        except (ValueError, RecursionError) as error:
            raise StoreError(f"{self.path}: {str(error) or 'too deep'}; put it right by hand") from error
        if not isinstance(found, dict):
            raise StoreError(f"{self.path}: holds no object; is it the configuration of an MCP client?")
        return found

    def entries(self) -> list[ServerEntry]:
        """Every server of the file, in order. Raises StoreError where there is no place for servers."""
        document, found, sections = self.document(), list[ServerEntry](), 0
        for place, project, servers in _sections(document):
            sections += 1
            if not isinstance(servers, dict):
                raise StoreError(f"{self.path}: {'.'.join(place)} is not an object of servers; put it right by hand")
            found += [
                ServerEntry((*place, name), body if isinstance(body, dict) else {}, project)
                for name, body in servers.items()
            ]
        if not sections:
            raise StoreError(
                f"{self.path}: no MCP servers here: neither `mcpServers` (Claude, Cursor, Gemini) nor `servers` "
                "(VS Code) nor `[mcp_servers.NAME]` (Codex)"
            )
        return found

    def section(self) -> Place:
        """Where a new server belongs. Raises StoreError where there is no place for servers, and other things are."""
        document = self.document()
        for place in _SECTIONS:
            if isinstance(_value_at(document, place), dict):
                return place
        if not document:
            return (self._usual_section(),)
        raise StoreError(f"{self.path}: write an empty {self._usual_section()} into it first, then try again")

    def _usual_section(self) -> str:
        """The word of the client whose file has this name: an empty file says nothing itself."""
        if self.language is toml:
            return "mcp_servers"
        code = self.path.name == "mcp.json" and self.path.parent.name in _DIRECTORIES_OF_CODE
        return "servers" if code else "mcpServers"

    def add_server(self, name: str, entry: Mapping[str, Any]) -> bool:
        """Whether its section was made, too. Raises StoreError where the file has no place for it, or has the name."""
        section = self.section()
        known = self.document_at(section)
        if known is None:
            self.set(section, {name: dict(entry)})
            return True
        if name in known:
            raise StoreError(f"{self.path} has a server {name} already; choose another name")
        self.set((*section, name), dict(entry))
        return False

    def document_at(self, place: Place) -> Any:
        """What the text says at `place`; None for nothing."""
        return _value_at(self.document(), place)

    def set(self, place: Place, value: Any, *, behind: str = "") -> None:
        """Sets one value. Raises StoreError where the layout does not let it be put back byte for byte."""
        before_text = self.text
        try:
            before = self.language.raw_value(self.text, place)
        except KeyError:
            before = None
        self.text = self.language.with_value(self.text, place, self.language.raw_of(value), behind=behind)
        change = ClientFileChange(place, before, value)
        if self._restored(self.text, change) != before_text or _value_at(self.document(), place) != value:
            raise StoreError(
                f"{self.path}: the layout at {'.'.join(place)} cannot be changed in a way that can be undone; "
                "write that server on lines of its own"
            )
        self.changes.append(change)

    def take_back(self, changes: Sequence[ClientFileChange]) -> bool:
        """Undoes the changes of one server, if all of them still stand there; False where somebody changed them."""
        document = self.document()
        if any(_value_at(document, change.place) != change.after for change in changes):
            return False
        for change in reversed(changes):
            self.text = self._restored(self.text, change)
        self.document()
        return True

    def _restored(self, text: str, change: ClientFileChange) -> str:
        if change.before is None:
            return str(self.language.without(text, change.place))
        return str(self.language.with_value(text, change.place, change.before))

    def diff(self) -> str:
        """What `save` would change, as a unified diff that shows no value of a variable and no key among `args`."""
        old = ClientFile(self.path, b"", self.original.decode(), self.language)
        before = old.text if self.created or not old.document() else old.without_values()
        after = self.without_values() if self.document() else self.text
        return text_diff(before, after, str(self.path))

    def without_values(self) -> str:
        """Without values in `env` and `headers`, and without keys in `args`: for a terminal, never for a file."""
        text = self.text
        for entry in self.entries():
            for section in ("env", "headers"):
                values = entry.body.get(section)
                for name in values if isinstance(values, dict) else ():
                    text = self.language.with_value(text, (*entry.place, section, name), self.language.raw_of("…"))
            words = entry.body.get("args")
            if isinstance(words, list) and all(isinstance(word, str) for word in words):
                hidden = list(hide_arguments(words))
                if hidden != words:
                    text = self.language.with_value(text, (*entry.place, "args"), self.language.raw_of(hidden))
        return text

    def check_writable(self) -> None:
        """Raises StoreError where `save` could not write, as far as that can be known before."""
        directory = self.path.parent
        while self.created and not directory.exists() and directory != directory.parent:
            directory = directory.parent
        if not directory.is_dir() or not os.access(directory, os.W_OK | os.X_OK):
            raise StoreError(f"{self.path}: cannot be written: {directory} is no directory that this user may write to")

    def save(self) -> None:
        """Writes the text in the file's place, mode kept. Raises ConflictError when it is not the file any more."""
        self.check_unchanged()
        if self.created:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StoreError(f"{self.path.parent}: cannot be made: {error.strerror}") from error
        write_atomically(self.path, self.text.encode())

    def check_unchanged(self) -> None:
        """Raises ConflictError when the file is not as it was read any more."""
        if self.created:
            if self.path.exists():
                raise ConflictError(f"{self.path}: was made meanwhile; try again")
        elif read_regular_file(self.path, limit=MAX_BYTES, what="client's configuration") != self.original:
            raise ConflictError(f"{self.path}: was changed meanwhile, perhaps by the client; try again")


def empty_text(language: ModuleType) -> str:
    """A file of this language in which nothing is set."""
    return "{}\n" if language is jsonc else ""


def digest(raw: bytes) -> str:
    """The SHA-256 of a file's bytes."""
    return hashlib.sha256(raw).hexdigest()


def _sections(document: Mapping[str, Any]) -> Iterator[tuple[Place, str, Any]]:
    for place in _SECTIONS:
        section = _value_at(document, place)
        if section is not None and (place != ("servers",) or _all_servers(section)):
            yield place, "", section
    projects = document.get("projects")
    for directory, settings in projects.items() if isinstance(projects, dict) else ():
        if isinstance(settings, dict) and settings.get("mcpServers"):
            yield ("projects", directory, "mcpServers"), directory, settings["mcpServers"]


def _all_servers(section: Any) -> bool:
    """`servers` is a word of many files: here each of them is started or called."""
    return isinstance(section, dict) and all(
        isinstance(each, dict) and each.keys() & {"command", "url", "type"} for each in section.values()
    )


def _value_at(document: Any, place: Place) -> Any:
    for name in place:
        if not isinstance(document, dict) or name not in document:
            return None
        document = document[name]
    return document
