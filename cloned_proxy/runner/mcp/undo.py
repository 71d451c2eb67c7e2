"""`.cloned/mcp-undo.json`: what stood in the clients' files before, so that `mcp unwrap` can put it back.

Only what was replaced is kept, as it was written, and digests of the whole: a copy of the file would be a copy of the
secrets that clients keep in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from cloned_proxy.runner.mcp.client_file import ClientFile, ClientFileChange, digest
from cloned_proxy.store.files.atomic import write_atomically
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.files.files import read_regular_file
from cloned_proxy.store.files.policy_bytes import MAX_BYTES
from cloned_proxy.store.workspaces.workspace import Workspace


@dataclass(frozen=True, slots=True)
class WrappedServer:
    """One server of a client's file, and how to put its entry back."""

    server: str
    """Name of the server in mcp.yaml."""
    changes: tuple[ClientFileChange, ...]


@dataclass(slots=True)
class WrappedFile:
    before: str
    """SHA-256 of the file as it would be without our changes, when they were made."""
    after: str
    """SHA-256 of the file with them."""
    servers: list[WrappedServer]
    created: bool = False
    """The file was not there before."""


_FILES: Final = TypeAdapter(dict[str, WrappedFile])


class UndoRecord:
    """Reads at once; `save` writes. Raises StoreError for a record that cannot be read."""

    def __init__(self, workspace: Workspace, name: str = "mcp-undo.json") -> None:
        self.path: Final = workspace.root / name
        self.files: dict[str, WrappedFile] = {}
        if self.path.exists(follow_symlinks=False):
            raw = read_regular_file(self.path, limit=MAX_BYTES, what="record of wrapped files")
            try:
                self.files = _FILES.validate_json(raw)
            except ValidationError as error:
                raise StoreError(f"{self.path}: damaged; put the clients' files right by hand and delete it") from error

    def remember(self, file: ClientFile, servers: Iterable[WrappedServer], *, created: bool = False) -> None:
        """Adds what was just changed in a file's text. Raises StoreError where it could not be undone."""
        known = self.files.get(str(file.path))
        listed = [*(known.servers if known is not None else ()), *servers]
        created = created or (known is not None and known.created)
        trial = ClientFile(file.path, file.original, file.text, file.language)
        for each in reversed(listed):
            trial.take_back(each.changes)
        before, after = digest(trial.text.encode()), digest(file.text.encode())
        self.files[str(file.path)] = WrappedFile(before, after, listed, created)

    def used(self, server: str, *, besides: Path) -> bool:
        """Whether a wrapped file other than `besides` starts this server."""
        return any(
            each.server == server for path, file in self.files.items() if path != str(besides) for each in file.servers
        )

    def save(self) -> None:
        write_atomically(self.path, json.dumps({path: asdict(file) for path, file in self.files.items()}).encode())


@dataclass(slots=True)
class Unwrapped:
    """What `unwrap` made of a file's text."""

    restored: list[WrappedServer]
    changed: list[WrappedServer]
    """Servers whose entries somebody has changed since, or taken out: they stay as they are."""
    exact: bool
    """Whether the text is byte for byte what it was."""


def unwrap(file: ClientFile, record: WrappedFile) -> Unwrapped:
    """Puts back each entry that still says what we wrote. Raises StoreError when that is not what it should be."""
    untouched = digest(file.original) == record.after
    result = Unwrapped([], [], exact=False)
    for each in reversed(record.servers):
        (result.restored if file.take_back(each.changes) else result.changed).append(each)
    result.exact = digest(file.text.encode()) == record.before
    if untouched and not result.exact:
        raise StoreError(f"{file.path}: cannot be put back byte for byte; nothing was changed; please report it")
    return result
