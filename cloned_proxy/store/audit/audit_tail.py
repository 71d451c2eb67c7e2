"""The newest of the log in memory, for who sends it on: reading it back from the disk costs more than to send it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

type Row = tuple[int, str, str]
"""Number, body and hash of an entry."""

_MOST_BYTES: Final = 16 << 20
"""What comes within a second under the highest load. Of what is older the disk has a copy."""
_TOGETHER: Final = 250
"""Entries of one piece: a reader takes whole pieces."""
_BESIDE: Final = 65
"""Bytes of a line beside the body: the hash, and the end of the line."""


class Lines(NamedTuple):
    """Entries without a gap, each one line of its hash (64 digits) and its body."""

    first: int
    last: int
    packed: bytes


class _Piece(NamedTuple):
    """Rows without a gap, and each body one line."""

    rows: Sequence[Row]
    size: int
    """Size of the lines, where each character is one byte."""


class AuditTail:
    """Thread-safe. Holds only what is committed, and may lack any of it: a reader then reads the disk.

    Of the processes that write into one log each holds its own entries, so theirs are gaps for the others.
    """

    def __init__(self, most_bytes: int = _MOST_BYTES) -> None:
        self._most_bytes: Final = most_bytes
        self._lock: Final = threading.Lock()
        self._kept: deque[_Piece] = deque()
        self._bytes = 0

    def add(self, rows: Sequence[Row]) -> None:
        """Takes in rows that were just committed, in the order of their numbers. Lines are made when they are taken."""
        for start in range(0, len(rows), _TOGETHER):
            piece = rows[start : start + _TOGETHER]
            size = sum([len(body) for _, body, _ in piece]) + len(piece) * _BESIDE
            if piece[-1][0] - piece[0][0] + 1 != len(piece) or [body for _, body, _ in piece if "\n" in body]:
                continue
            with self._lock:
                self._kept.append(_Piece(piece, size))
                self._bytes += size
                while self._bytes > self._most_bytes:
                    self._bytes -= self._kept.popleft().size

    def after(self, seq: int, *, most: int, most_bytes: int) -> Lines | None:
        """The entries that follow this one, as many as these bounds let; None where the disk has to be read.

        What lies before them is forgotten.
        """
        found: list[Row] = []
        with self._lock:
            while self._kept and self._kept[0].rows[-1][0] <= seq:
                self._bytes -= self._kept.popleft().size
            size = 0
            for each in self._kept:
                size += each.size
                follows = each.rows[0][0] == seq + len(found) + 1
                if not follows or len(found) + len(each.rows) > most or size > most_bytes:
                    break
                found += each.rows
        if not found:
            return None
        # SQLite stores half a surrogate as well, and as these bytes.
        packed = "\n".join([entry_hash + body for _, body, entry_hash in found]).encode(errors="surrogatepass")
        return Lines(seq + 1, found[-1][0], packed)
