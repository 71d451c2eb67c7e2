"""A tree as it was before a run, to say afterwards which files came, went and changed, and how. Works without git.

A file counts as unchanged when its inode, size and times are: the time of an inode's change can be set by nobody. What
a tool left is opened without following links, without blocking on a FIFO, and read up to a bound.
"""

from __future__ import annotations

import difflib
import itertools
import os
import re
import stat
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from cloned_proxy.runner.project.changes import BROUGHT, Change, Letter, Stamp, compare, stamp_of
from cloned_proxy.runner.project.survey import Look

MAX_TEXT: Final = 256 * 1024
"""Bytes of the largest file whose lines are compared."""
MAX_KEPT: Final = 256 * 1024 * 1024
"""Bytes of text that are kept of one tree, before the run and after it."""
MAX_LINES: Final = 400
"""Lines of difference that are kept of one file."""
_OPEN: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_HEAP: Final = re.compile(f"(?:^|/)(?:{'|'.join(map(re.escape, sorted(BROUGHT | {'.git'})))})(?=/)")
"""Directories of which it is only said how many files changed."""
_PIECE: Final = 1024 * 1024
"""Bytes that are written at once."""


@dataclass(frozen=True, slots=True)
class FileChange:
    """One file, or all that changed in one directory of `_HEAP`."""

    path: str
    letter: Letter
    before: int | None = None
    """Bytes; None where there was no file."""
    after: int | None = None
    count: int = 1
    lines: tuple[str, ...] = ()
    """A unified diff, of text; at most MAX_LINES, the tool's own words."""
    note: str = ""
    """Why there is no diff, or not all of it."""
    modes: tuple[int, int] | None = None
    """The modes of lstat(2) before and after, where they differ."""


class Spool:
    """Texts in a file without a name: whatever ends this process, nothing stays. Thread-safe; a context manager."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115  closed by __exit__
        self._places: dict[str, tuple[int, int]] = {}
        self._size = 0
        self._unwritten: list[bytes] = []
        self._written = 0
        self._failed = False
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def put(self, path: str, data: bytes) -> None:
        """Kept if there is room for it."""
        with self._lock:
            if self._failed or self._size + len(data) > MAX_KEPT:
                return
            self._places[path] = (self._size, len(data))
            self._unwritten.append(data)
            self._size += len(data)
            if self._size - self._written >= _PIECE:
                self._write()

    def get(self, path: str) -> bytes | None:
        """What was put there; None when nothing was."""
        with self._lock:
            if self._unwritten:
                self._write()
        if path not in self._places:
            return None
        place, length = self._places[path]
        data = os.pread(self._file.fileno(), length, place)
        return data if len(data) == length else None

    def _write(self) -> None:
        whole = b"".join(self._unwritten)
        self._unwritten.clear()
        try:
            self._written += os.pwrite(self._file.fileno(), whole, self._written)
        except OSError:
            self._failed = True
        if self._written < self._size:  # a full disk: there will be no diff of the rest
            self._failed = True


class TreeSnapshot:
    """`keep` visits the tree before the run, `see` after it; `changes` says the difference."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._before: dict[str, Stamp] = {}
        """The stamps of the first visit; after the second one only what went away, or changed."""
        self._after: dict[str, Stamp] = {}
        """What came or changed; all else is the same, and there may be very much of it."""
        self._seen: dict[str, bytes] = {}
        self._room = MAX_KEPT

    def keep(self, look: Look) -> None:
        """A visitor: what is there before the run, and what its text files say."""
        path = look.path
        try:
            stamp = stamp_of(look.entry.stat(follow_symlinks=False))
        except FileNotFoundError:  # gone since it was listed
            return
        self._before[path] = stamp
        if _has_lines(path, stamp):
            text = _text(look, stamp.size)
            if text is not None:
                self._spool.put(path, text)

    def see(self, look: Look) -> None:
        """A visitor: what is there after it, and what the text files that changed say now."""
        path = look.path
        try:
            stamp = stamp_of(look.entry.stat(follow_symlinks=False))
        except FileNotFoundError:  # as above
            return
        if stamp == self._before.get(path):
            del self._before[path]
            return
        self._after[path] = stamp
        if _has_lines(path, stamp) and stamp.size <= self._room:
            text = _text(look, stamp.size)
            if text is not None:
                self._room -= len(text)
                self._seen[path] = text

    def changes(self) -> tuple[FileChange, ...]:
        """The changes by path, without directories: what is in them is told."""
        found: list[FileChange] = []
        heaps: dict[str, int] = {}
        for change in compare(self._before, self._after):
            if self._is_directory(change.path):
                continue
            heap = _heap_of(change.path)
            if heap is not None:
                heaps[heap] = heaps.get(heap, 0) + 1
            elif not self._is_the_same(change):
                found.append(self._described(change))
        found += [FileChange(heap, Letter.MODIFIED, count=count) for heap, count in heaps.items()]
        return tuple(sorted(found, key=lambda change: change.path))

    def _is_directory(self, path: str) -> bool:
        stamps = (self._before.get(path), self._after.get(path))
        return all(stamp is None or stat.S_ISDIR(stamp.mode) for stamp in stamps)

    def _is_the_same(self, change: Change) -> bool:
        """Written again with what it said already."""
        if change.letter is not Letter.MODIFIED or self._before[change.path].mode != self._after[change.path].mode:
            return False
        text = self._seen.get(change.path)
        return text is not None and text == self._spool.get(change.path)

    def _described(self, change: Change) -> FileChange:
        path = change.path
        before, after = self._before.get(path), self._after.get(path)
        old = b"" if before is None else self._spool.get(path)
        new = b"" if after is None else self._seen.get(path)
        lines: tuple[str, ...] = ()
        note = "not text, too large, or not kept"
        if any(stamp is not None and not stat.S_ISREG(stamp.mode) for stamp in (before, after)):
            note = "not a regular file"
        elif old is not None and new is not None:
            lines, note = _difference(old, new, path)
        modes = None if before is None or after is None or before.mode == after.mode else (before.mode, after.mode)
        return FileChange(path, change.letter, _size(before), _size(after), 1, lines, note, modes)


def _has_lines(path: str, stamp: Stamp) -> bool:
    """Whether lines of it are compared, if it is text."""
    return stat.S_ISREG(stamp.mode) and stamp.size <= MAX_TEXT and _HEAP.search(path) is None


def _heap_of(path: str) -> str | None:
    """The directory of `_HEAP` that a path is in."""
    found = _HEAP.search(path)
    return None if found is None else path[: found.end()]


def _text(look: Look, size: int) -> bytes | None:
    """What a file of that size says; None for what is no text, cannot be read, or is longer by now."""
    if not size:
        return b""
    try:
        descriptor = os.open(look.entry.name, _OPEN, dir_fd=look.directory)
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        # One byte more than there was: so a file that grows meanwhile is seen to, and no buffer is larger than needed.
        data = os.read(descriptor, size + 1)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return None if len(data) > size or b"\0" in data else data


def _difference(old: bytes, new: bytes, path: str) -> tuple[tuple[str, ...], str]:
    before, after = (text.decode(errors="replace").splitlines() for text in (old, new))
    every = difflib.unified_diff(before, after, f"a/{path}", f"b/{path}", lineterm="")
    lines = list(itertools.islice(every, MAX_LINES + 1))
    if len(lines) > MAX_LINES:
        return tuple(lines[:MAX_LINES]), f"only the first {MAX_LINES} lines of the difference"
    return tuple(lines), ""


def _size(stamp: Stamp | None) -> int | None:
    return None if stamp is None else stamp.size
