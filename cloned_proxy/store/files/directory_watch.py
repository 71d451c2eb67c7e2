"""Hearing of changes in a directory: not of one file in it, since editors and ConfigMaps replace files and links."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Final

import structlog
from watchdog.events import (
    DirCreatedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

_log = structlog.get_logger(__name__)

# Single writes and our own reading are not watched: the audit log in the same directory is written fifty times a
# second, and each event would wake three threads beside the event loop. The kernel leaves out what is not asked for.
_EVENTS: Final[list[type[FileSystemEvent]]] = [
    FileClosedEvent, FileCreatedEvent, FileDeletedEvent, FileMovedEvent, DirCreatedEvent, DirMovedEvent,
]  # fmt: skip
_NOISE: Final = ("state.db",)


class DirectoryWatch(FileSystemEventHandler):
    """Sets `dirty` on the loop for each change in one directory, also after that directory was replaced."""

    def __init__(self, directory: Path, dirty: asyncio.Event) -> None:
        self._directory = directory
        self._dirty = dirty
        self._loop: asyncio.AbstractEventLoop | None = None
        self._observer: BaseObserver | None = None
        self._inode: tuple[int, int] | None = None

    @property
    def outdated(self) -> bool:
        """Whether another directory than the one that is watched is there now."""
        found = self._found()
        return found is not None and found != self._inode

    def refresh(self, loop: asyncio.AbstractEventLoop) -> None:
        """Watches the directory that is there now. Where none can be watched, the poll alone remains."""
        self._loop = loop
        found = self._found()
        if found is None or found == self._inode:
            return
        self.stop()
        observer = Observer()
        try:
            observer.schedule(self, str(self._directory), event_filter=_EVENTS)
            observer.start()
        except (OSError, RuntimeError) as error:  # RuntimeError: no thread can be started
            _log.warning("the directory cannot be watched; changes take a second", reason=str(error))
            return
        finally:
            self._inode = found
        self._observer = observer
        self._dirty.set()

    def _found(self) -> tuple[int, int] | None:
        try:
            info = self._directory.stat()
        except OSError:
            return None
        return (info.st_dev, info.st_ino)

    def stop(self) -> None:
        """Ends the watching threads."""
        if self._observer is not None:
            self._observer.stop()
            self._observer.join(timeout=5)
            self._observer = None

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Called by watchdog, on its own thread."""
        if Path(str(event.src_path)).name.startswith(_NOISE) or self._loop is None:
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process is going down
            self._loop.call_soon_threadsafe(self._dirty.set)
