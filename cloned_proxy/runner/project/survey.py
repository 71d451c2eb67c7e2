"""Looks a directory through, whole, before a sandbox is shown it: where secrets lie, where doors lead to the host.

A tool may have written anything in it, and another sandbox may be writing while we look. Every directory is opened
relative to the one above with O_NOFOLLOW: no link, planted or swapped in meanwhile, leads the survey elsewhere. What
cannot be looked through (closed, too much, too deep, too slow) is refused and never passed over.
"""

from __future__ import annotations

import contextlib
import math
import os
import stat
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from cloned_proxy.runner.values.errors import SandboxInputError
from cloned_proxy.store.workspaces.workspace import DIRECTORY_NAME

MAX_ENTRIES: Final = 2_000_000
MAX_DEPTH: Final = 200
"""Levels below the root. Each that waits for its turn keeps a descriptor open."""
SECONDS: Final = 60.0
_HELPERS: Final = 3
_ALONE_SECONDS: Final = 0.05
"""Seconds that one thread walks alone, until it is known what the walk waits for."""
_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK

type Identity = tuple[int, int]
"""Device and inode."""


@dataclass(slots=True)
class Survey:
    """What was found; paths are relative to the root, with `/`, as they are on disk."""

    entries: int = 0
    secret_directories: list[str] = field(default_factory=list)
    """Workspaces: directories called `.cloned`, and those that are one under another name."""
    secret_files: list[str] = field(default_factory=list)
    """Files called `.cloned`."""
    secret_links: list[str] = field(default_factory=list)
    """Links called `.cloned`: what they lead to is a workspace, whatever its name."""
    doors: list[str] = field(default_factory=list)
    """Sockets and FIFOs: a connect or a write goes through to whoever is behind, read-only mount or not."""
    repositories: list[str] = field(default_factory=list)
    """Directories that hold a `.git`, be it a directory or a file; "" is the root."""


class Look(NamedTuple):
    """What is passed on of each entry: by path, and by a descriptor of its directory with its name there."""

    path: str
    entry: os.DirEntry[str]
    directory: int


type Visit = Callable[[Look], None]


def look_through(
    root: Path, *, secrets: Collection[Identity] = (), visit: Visit | None = None, seconds: float = SECONDS
) -> Survey:
    """Walks everything below `root` but what is secret. Raises SandboxInputError.

    `secrets` are directories known to be workspaces. `visit` is called for every entry that is no secret, from
    several threads, while the directory is open.
    """
    walk = _Walk(root, frozenset(secrets), visit, time.monotonic() + seconds)
    return walk.run()


class _Opened:
    """A directory that stays open until each directory in it has been opened, or given up."""

    def __init__(self, descriptor: int, path: str, depth: int) -> None:
        self.descriptor = descriptor
        self.path = path
        self.depth = depth
        self.users = 1
        """Itself, while it is read, and every directory in it that still waits."""


class _Walk:
    def __init__(self, root: Path, secrets: frozenset[Identity], visit: Visit | None, deadline: float) -> None:
        self._root = root
        self._secrets = secrets
        self._visit = visit
        self._deadline = deadline
        self._found = Survey()
        self._waiting: list[tuple[_Opened | None, str]] = [(None, "")]
        self._busy = 0
        self._failure: BaseException | None = None
        self._changed = threading.Condition()
        self._helpers: list[threading.Thread] = []
        self._began, self._cpu_before = time.monotonic(), time.thread_time()
        self._ask_for_help_at = self._began + _ALONE_SECONDS

    def run(self) -> Survey:
        self._work(self._call_helpers)
        for helper in self._helpers:
            helper.join()
        for parent, _ in self._waiting:
            self._release(parent)
        if self._failure is not None:
            raise self._failure
        found = self._found
        for paths in (found.secret_directories, found.secret_files, found.secret_links, found.doors):
            paths.sort()
        found.repositories.sort()
        return found

    def _call_helpers(self) -> None:
        """Once, if this thread has mostly waited: others can wait beside it for a disk, but not for the interpreter.

        With every directory in the kernel's cache four threads are slower than one, by more than half.
        """
        now = time.monotonic()
        if now < self._ask_for_help_at:
            return
        self._ask_for_help_at = math.inf
        if time.thread_time() - self._cpu_before > (now - self._began) / 2:
            return
        for _ in range(_HELPERS):
            self._helpers.append(threading.Thread(target=self._work, name="survey", daemon=True))
            self._helpers[-1].start()

    def _work(self, between: Callable[[], None] = lambda: None) -> None:
        while (taken := self._take()) is not None:
            try:
                self._enter(*taken)
                between()
            except BaseException as error:  # noqa: BLE001  raised again by `run`, in the caller's own thread
                self._failure = self._failure or error
            finally:
                self._release(taken[0])
                with self._changed:
                    self._busy -= 1
                    self._changed.notify_all()

    def _take(self) -> tuple[_Opened | None, str] | None:
        with self._changed:
            while not self._waiting and self._busy and self._failure is None:
                self._changed.wait()
            if not self._waiting or self._failure is not None:
                return None
            self._busy += 1
            return self._waiting.pop()

    def _release(self, directory: _Opened | None) -> None:
        if directory is None:
            return
        with self._changed:
            directory.users -= 1
            last = not directory.users
        if last:
            os.close(directory.descriptor)

    def _enter(self, parent: _Opened | None, name: str) -> None:
        path = name if parent is None or not parent.path else f"{parent.path}/{name}"
        try:
            descriptor = (
                os.open(self._root, _OPEN) if parent is None else os.open(name, _OPEN, dir_fd=parent.descriptor)
            )
        except PermissionError as error:
            raise SandboxInputError(
                f"{self._root / path} cannot be searched: {error.strerror}; make it readable or move it out"
            ) from error
        except (FileNotFoundError, NotADirectoryError) as error:
            if parent is None:
                raise SandboxInputError(f"{self._root}: {error.strerror}") from error
            return  # removed or replaced while we walked: what is there now is not what was listed
        except OSError as error:  # ELOOP: replaced by a link
            raise SandboxInputError(f"{self._root / path} cannot be searched: {error.strerror}; try again") from error
        opened = _Opened(descriptor, path, 0 if parent is None else parent.depth + 1)
        try:
            self._read(opened)
        finally:
            self._release(opened)

    def _read(self, here: _Opened) -> None:
        if here.depth > MAX_DEPTH:
            raise SandboxInputError(
                f"{self._root / here.path[:200]}… is more than {MAX_DEPTH} directories deep, and cannot be looked "
                "through; remove it or move it out"
            )
        if here.path and self._is_secret(here.descriptor):
            self._found.secret_directories.append(here.path)
            return
        prefix = f"{here.path}/" if here.path else ""
        inside: list[str] = []
        count = 0
        with os.scandir(here.descriptor) as entries:
            for entry in entries:
                count += 1
                if self._note(f"{prefix}{entry.name}", entry, here):
                    inside.append(entry.name)
        with self._changed:
            self._found.entries += count
            here.users += len(inside)
            self._waiting += [(here, name) for name in inside]
            self._changed.notify(len(inside))
        self._check_bounds()

    def _is_secret(self, descriptor: int) -> bool:
        info = os.fstat(descriptor)
        return (info.st_dev, info.st_ino) in self._secrets

    def _note(self, path: str, entry: os.DirEntry[str], here: _Opened) -> bool:
        """Whether it is a directory to go into."""
        directory = entry.is_dir(follow_symlinks=False)
        found = self._found
        if entry.name == DIRECTORY_NAME:
            kind = found.secret_links if entry.is_symlink() else found.secret_files
            (found.secret_directories if directory else kind).append(path)
            return False
        if entry.name == ".git":
            found.repositories.append(here.path)
        elif not directory and not entry.is_symlink() and not entry.is_file(follow_symlinks=False):
            with contextlib.suppress(FileNotFoundError):  # gone since it was listed, and so not a file either
                mode = entry.stat(follow_symlinks=False).st_mode
                if stat.S_ISSOCK(mode) or stat.S_ISFIFO(mode):
                    found.doors.append(path)
        if self._visit is not None:
            self._visit(Look(path, entry, here.descriptor))
        return directory

    def _check_bounds(self) -> None:
        if self._found.entries > MAX_ENTRIES:
            raise SandboxInputError(f"{self._root} has more than {MAX_ENTRIES} entries; {_SMALLER}")
        if time.monotonic() > self._deadline:
            raise SandboxInputError(
                f"{self._root} could not be looked through for secrets in time ({self._found.entries} entries so far); "
                f"{_SMALLER}"
            )


_SMALLER: Final = "use a smaller directory, or `--project none`"
