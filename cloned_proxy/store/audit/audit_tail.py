"""The newest of the log in memory, for who sends it on: reading it back from the disk costs more than to send it."""

from __future__ import annotations

import threading
from collections import deque
from typing import Final, NamedTuple

_MOST_BYTES: Final = 16 << 20
"""What comes within a second under the highest load. Of what is older the disk has a copy."""


class Written(NamedTuple):
    """Entries that were put on record together, without a gap."""

    first: int
    last: int
    last_hash: str
    text: str
    """A JSON array with the array [number, body, hash] of each, in ASCII: what SQLite was given, so it is there."""


class Held(NamedTuple):
    """The same, as it is sent."""

    first: int
    last: int
    last_hash: str
    raw: bytes


class AuditTail:
    """Thread-safe. Holds only what is committed, and may lack any of it: a reader then reads the disk.

    Of the processes that write into one log each holds its own entries, so theirs are gaps for the others.
    """

    def __init__(self, most: int = _MOST_BYTES) -> None:
        """`most` is how many bytes are held."""
        self._most: Final = most
        self._lock: Final = threading.Lock()
        self._kept: deque[Held] = deque()
        self._held = 0

    def add(self, written: Written) -> None:
        """Takes in what was just committed, in the order of the numbers."""
        # Here, where the text has just been used: a second later to read it costs as much as to send it.
        raw = written.text.encode("ascii")
        with self._lock:
            self._kept.append(Held(written.first, written.last, written.last_hash, raw))
            self._held += len(raw)
            while self._held > self._most:
                self._held -= len(self._kept.popleft().raw)

    def after(self, seq: int, *, most: int) -> list[Held]:
        """What follows this entry, in so many bytes at most; [] where the disk has to be read.

        What lies before it is forgotten.
        """
        found: list[Held] = []
        with self._lock:
            while self._kept and self._kept[0].last <= seq:
                self._held -= len(self._kept.popleft().raw)
            for each in self._kept:
                most -= len(each.raw)
                if each.first != seq + 1 or most < 0:
                    break
                found.append(each)
                seq = each.last
        return found
