"""How much a tool has written to this machine's disk, and the guard that ends a run which writes too much.

A bind mount has no size of its own. What is counted was laid out by the tool, which may change it meanwhile: every
directory is opened relative to its parent and never through a link, so that no count leaves the tool's own directory.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from cloned_proxy.runner.values.errors import ToolLimitError
from cloned_proxy.runner.values.spec import HOME, MIB, SandboxSpec

_BLOCK: Final = 512
"""The unit of st_blocks, stat(2)."""
_DEEPEST: Final = 128
"""Directories below each other. Real trees have a dozen; each costs a descriptor while it is counted."""
_POLL_SECONDS: Final = 0.25
_SHARE: Final = 20
"""A count may take one part in so many of the time: a home with 100,000 files takes half a second to count."""
_RECOUNT_SECONDS: Final = 10.0
"""A count is due so often even if the file system seems not to have filled up: not every one tells at once."""
_GROWN_BYTES: Final = MIB
_GROWN_FILES: Final = 1000
_SCRATCH_ENTRIES: Final = 100_000
_HOME_ENTRIES: Final = 500_000
_FLOOR: Final = 256 * MIB
_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True)
class DiskUsage:
    """What lies below one directory."""

    size: int = 0
    """Bytes on disk."""
    entries: int = 0
    closed: int = 0
    """Directories that this user may not read. What is in them is not counted; root counts everything."""
    too_deep: bool = False
    """Directories lie deeper than can be counted."""


@dataclass(frozen=True, slots=True)
class Bound:
    """What a tool may put into one directory of this machine."""

    root: Path
    shown: str
    """The path in the container."""
    size: int
    """Bytes."""
    entries: int
    fix: str

    def check(self) -> str:
        """Empty, or the sentence that says what is over the bound."""
        usage = disk_usage(self.root)
        if usage.too_deep:
            return f"directories more than {_DEEPEST} deep are in {self.shown}; {self.fix}"
        if usage.size > self.size or usage.entries > self.entries:
            return (
                f"{usage.size // MIB} MiB in {usage.entries} entries are in {self.shown}; {self.size // MIB} MiB and "
                f"{self.entries} entries are allowed: {self.fix}"
            )
        return ""


@dataclass(frozen=True, slots=True)
class Floor:
    """What must stay free where a directory of the user's lies that the tool may write: it has no bound of its own."""

    root: Path
    size: int
    """Bytes for users that are not root."""

    @classmethod
    def of(cls, root: Path) -> Self:
        """The usual one; on a disk that is all but full already, half of what is left."""
        return cls(root, min(_FLOOR, _free_bytes(root) // 2))

    def check(self) -> str:
        """Empty, or the sentence that says that it is not kept."""
        free = _free_bytes(self.root)
        if free >= self.size:
            return ""
        return f"only {free // MIB} MiB are free where {self.root} lies; make room there"


def _free_bytes(root: Path) -> int:
    facts = os.statvfs(root)
    return facts.f_bavail * facts.f_frsize


def bounds_of(spec: SandboxSpec) -> tuple[Bound | Floor, ...]:
    """What one run is held to: its scratch directory, its home where that is kept, and the disks that it may fill."""
    less = "write less, or raise `sandbox: {scratch_mib: …}`"
    scratch = Bound(Path(spec.scratch), "/sandbox", spec.limits.scratch, _SCRATCH_ENTRIES, less)
    home = (home_bound(Path(spec.home), spec.tool, spec.limits.kept_home),) if spec.home else ()
    written = [Path(mount.source) for mount in (*spec.binds, *spec.mounts) if not mount.read_only]
    disks = {path.stat().st_dev: path for path in reversed(written)}
    return (scratch, *home, *(Floor.of(path) for path in disks.values()))


def home_bound(home: Path, tool: str, size: int) -> Bound:
    """What a kept home may hold."""
    fix = f"`cloned-proxy home reset {tool}` empties it, `sandbox: {{kept_home_mib: …}}` allows more"
    return Bound(home, HOME, size, _HOME_ENTRIES, fix)


def disk_usage(root: Path) -> DiskUsage:
    """Counts a directory while a tool may still be writing in it; links are counted and not followed."""
    usage = DiskUsage()
    with contextlib.suppress(FileNotFoundError), _opened(str(root), None, usage) as directory:
        _count(directory, 1, usage)
    return usage


def _count(directory: int, depth: int, usage: DiskUsage) -> None:
    if depth > _DEEPEST:
        usage.too_deep = True
        return
    below: list[str] = []
    with os.scandir(directory) as entries:
        for entry in entries:
            usage.entries += 1
            try:
                info = entry.stat(follow_symlinks=False)
            except OSError as error:  # removed meanwhile, or in a directory that lists its names and nothing more
                usage.closed += isinstance(error, PermissionError)
                continue
            usage.size += info.st_blocks * _BLOCK
            if stat.S_ISDIR(info.st_mode):
                below.append(entry.name)
    for name in below:
        # The tool may have put a link or a file into its place: then it is no directory, and not entered.
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), _opened(name, directory, usage) as child:
            _count(child, depth + 1, usage)


@contextlib.contextmanager
def _opened(name: str, parent: int | None, usage: DiskUsage) -> Iterator[int]:
    try:
        descriptor = os.open(name, _FLAGS, dir_fd=parent)
    except PermissionError:
        usage.closed += 1
        raise FileNotFoundError(name) from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


class DiskGuard:
    """Calls `end` once, when one of the bounds is broken; each is looked at while the block runs."""

    def __init__(self, bounds: tuple[Bound | Floor, ...], end: Callable[[], None]) -> None:
        self._bounds = bounds
        self._end = end
        self._broken = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="disk-guard", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def check(self) -> None:
        """Raises ToolLimitError when a bound was broken."""
        if self._broken:
            raise ToolLimitError(f"the tool wrote too much and was killed: {self._broken}")

    def _watch(self) -> None:
        watched = [(bound, _Growth(bound.root)) for bound in self._bounds]
        while not self._stop.wait(_POLL_SECONDS):
            for bound, growth in watched:
                if growth.count_is_due():
                    self._broken = bound.check()
                    growth.counted()
                if self._broken:
                    self._end()
                    return


class _Growth:
    """Whether a directory can have grown since it was counted, as far as its file system tells.

    One call to the kernel instead of one for each file: a run that only waits costs next to nothing.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._began = self._ended = 0.0
        self._free: tuple[int, int] | None = None

    def count_is_due(self) -> bool:
        now = time.monotonic()
        if now - self._ended < (self._ended - self._began) * _SHARE:
            return False
        free = self._now_free()
        known = self._free
        if known is None or free is None or now - self._ended > _RECOUNT_SECONDS:
            due = True
        else:
            due = known[0] - free[0] > _GROWN_BYTES or known[1] - free[1] > _GROWN_FILES
            # What somebody else frees must not hide what the tool writes from now on.
            self._free = (max(known[0], free[0]), max(known[1], free[1]))
        if due:
            self._began, self._free = now, free
        return due

    def counted(self) -> None:
        self._ended = time.monotonic()

    def _now_free(self) -> tuple[int, int] | None:
        try:
            facts = os.statvfs(self._root)
        except OSError:
            return None
        return facts.f_bfree * facts.f_frsize, facts.f_ffree
