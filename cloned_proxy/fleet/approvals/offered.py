"""What the store has of requests and decisions, in an order in which no replica keeps another one waiting."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final

from cloned_proxy.fleet.approvals.request_store import MOST

type Row = tuple[bytes, bytes, int, bytes]
"""Id, request, milliseconds left, envelope of the decision or b""."""

_FROM: Final = re.compile(rb'"replica": "([^"]{1,120})"')
"""As `as_message` writes it. It is no proof of who has put it there."""


class Offered:
    """The requests and decisions in one answer of the script that reads (`request_store.READ`)."""

    def __init__(self, found: Sequence[Any]) -> None:
        """`found` is the answer without the time and the number in front."""
        self._decided: list[Row] = []
        self._waiting: list[tuple[int, Row]] = []
        self._of: Counter[bytes] = Counter()
        for at in range(0, len(found), 4):
            row: Row = (found[at], found[at + 1], found[at + 2], found[at + 3])
            if row[3]:
                self._decided.append(row)
                continue
            # A store that lies may answer anything: whoever looks at that one request says so.
            named = _FROM.search(row[1]) if isinstance(row[1], bytes) else None
            replica = named[1] if named else b""
            self._of[replica] += 1
            self._waiting.append((self._of[replica], row))
        self._waiting.sort(key=lambda each: each[0])
        self.ids: Final = {
            row[0].decode("ascii", errors="replace") for row in self.in_turns() if isinstance(row[0], bytes)
        }

    def in_turns(self) -> Iterator[Row]:
        """The decisions, then one request of each replica, then a second one of each, and so on."""
        yield from self._decided
        for _, row in self._waiting:
            yield row

    def why_full(self, where: str) -> str:
        """What people should look at where new requests take the places of others; "" where there is room."""
        if len(self._waiting) < MOST:
            return ""
        replica, number = self._of.most_common(1)[0]
        name = replica.decode("ascii", errors="replace") or "nobody"
        return (
            f"{where} is full: {len(self._waiting)} requests wait, {number} of them said to be of {name}; "
            "new ones take the place of theirs"
        )
