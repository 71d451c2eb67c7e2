"""A worker's place among its siblings: what it inherits, and the private directory in which they share their counts.

The directory lives in memory where the system has such a place. Every file in it has one writer for each byte, so a
worker that is killed in mid-write spoils at most its own numbers, and what it had counted stays counted.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from typing import Final

_IN_MEMORY: Final = Path("/dev/shm")  # noqa: S108  only the parent of a private directory that mkdtemp makes
_STALE_SECONDS: Final = 5.0
"""A worker reports each second; one that was silent for so long hangs."""


@dataclass(frozen=True, slots=True)
class Worker:
    """What the supervisor gives to worker `number` of `of`. The next process of that number carries its counts on."""

    number: int
    of: int
    directory: Path
    listening: socket
    """The one inherited listening socket: whichever worker is free takes the next connection."""
    metrics: tuple[str, int] | None
    """Where the exposition of all workers listens; none of them may dial it."""

    @property
    def leads(self) -> bool:
        """Whether this worker speaks for all: what concerns a file, not a flow, is recorded and counted once."""
        return self.number == 0

    def report(self, problems: tuple[str, ...]) -> None:
        """Tells `/readyz` how this worker is; to be repeated each second. Raises OSError."""
        place = _status(self.directory, self.number)
        draft = place.with_suffix(".new")
        draft.write_text(json.dumps({"at": time.monotonic(), "problems": problems}))
        draft.replace(place)


def leads(worker: Worker | None) -> bool:
    """Whether this process does what only one of a workspace may do. None: it is the only process."""
    return worker is None or worker.leads


def make_directory() -> Path:
    """A new directory (0700) for the workers of one supervisor."""
    return Path(tempfile.mkdtemp(prefix="cloned-proxy-", dir=_IN_MEMORY if os.access(_IN_MEMORY, os.W_OK) else None))


def remove_directory(directory: Path) -> None:
    """What is mapped by a process that still runs stays usable for it."""
    shutil.rmtree(directory, ignore_errors=True)


def forget_report(directory: Path, number: int) -> None:
    """Forgets the report of a worker that is no more."""
    with suppress(FileNotFoundError):
        _status(directory, number).unlink()


def silent_seconds(directory: Path, number: int) -> float:
    """For how long a worker has not reported; 0 for one that has not begun to, or whose report cannot be read."""
    try:
        return time.monotonic() - float(json.loads(_status(directory, number).read_text())["at"])
    except (OSError, ValueError, KeyError):
        return 0.0


def problems_of(directory: Path, workers: int) -> tuple[str, ...]:
    """Why not every worker should get traffic now; empty when all are ready."""
    return tuple(problem for number in range(workers) for problem in _problems_of_one(directory, number))


def _problems_of_one(directory: Path, number: int) -> list[str]:
    name = f"worker {number}"
    try:
        report = json.loads(_status(directory, number).read_text())
        if time.monotonic() - report["at"] > _STALE_SECONDS:
            return [f"{name} does not respond"]
        return [f"{name}: {problem}" for problem in report["problems"]]
    except FileNotFoundError:
        return [f"{name} is not running"]


def _status(directory: Path, number: int) -> Path:
    return directory / f"status-{number}.json"
