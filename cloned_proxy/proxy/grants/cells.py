"""Rows of 64-bit counters, one row for each worker, in memory of this process or shared with its siblings.

A worker writes only into its own row and reads them all, so a count is never lost to a race and a killed worker leaves
what it had counted. Only "look and then take" needs `turn`, which the kernel gives back when its holder dies.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol

CELL_BYTES: Final = 8
_SUFFIX: Final = ".cells"


@dataclass(frozen=True, slots=True)
class Cells:
    """`workers` rows of `width` cells in `values`; row `own` is ours."""

    values: memoryview[int]
    width: int
    own: int
    workers: int
    turn: AbstractContextManager[object]
    """Held while a worker looks at the sum and takes: nobody takes in between."""

    def column(self, index: int) -> memoryview[int]:
        """One cell of every row."""
        return self.values[index :: self.width]


class CellStore(Protocol):
    """Where cells are kept."""

    def open(self, name: str, width: int) -> Cells:
        """The cells of that name, all zero at first. Raises OSError."""


class OwnCells:
    """For a process that serves alone."""

    def open(self, name: str, width: int) -> Cells:  # noqa: ARG002  nobody looks them up by name
        return Cells(memoryview(bytearray(width * CELL_BYTES)).cast("Q"), width, 0, 1, nullcontext())


class SharedCells:
    """For workers: files in the directory that they share, mapped."""

    def __init__(self, directory: Path, *, own: int, workers: int) -> None:
        self._directory = directory
        self._own = own
        self._workers = workers

    def open(self, name: str, width: int) -> Cells:
        # Hashed, because a tool's name may hold what a file's name may not.
        digest = hashlib.sha256(name.encode()).hexdigest()[:32]
        size = width * self._workers * CELL_BYTES
        descriptor = os.open(
            self._directory / f"{digest}-{width}{_SUFFIX}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        os.ftruncate(descriptor, size)  # a file that has this size already keeps its content
        values = memoryview(mmap.mmap(descriptor, size)).cast("Q")
        return Cells(values, width, self._own, self._workers, _Turn(descriptor))


class _Turn:
    """An advisory lock on a descriptor of our own, for some microseconds at a time."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __enter__(self) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)


def clear_first_cells(directory: Path, worker: int) -> None:
    """Zeroes cell 0 of a dead worker's rows: by convention the cell of what it had open. The rest stays counted."""
    for path in directory.glob(f"*{_SUFFIX}"):
        width = int(path.stem.rpartition("-")[2])
        with path.open("r+b", buffering=0) as file:
            os.pwrite(file.fileno(), bytes(CELL_BYTES), worker * width * CELL_BYTES)
