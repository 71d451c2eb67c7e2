"""What the plane has put on record, for the audit writer: finished JSON lines, and how often what was decided."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from cloned_proxy.proxy.plane.library import Batch
from cloned_proxy.telemetry.events import Calls, DecisionEvent, Entries


class PlaneEntries:
    """An `EntrySource`. `forget` and `know` are the event loop's, everything else is the writer's thread's."""

    def __init__(self, library: ctypes.CDLL, plane: int) -> None:
        self._library: Final = library
        self._plane: Final = plane
        self._events: dict[int, DecisionEvent] = {}
        self._leaving: deque[tuple[int, int]] = deque()
        """Verdicts that are gone, each with how many batches were taken until then: the next may still name it."""
        self._taken = 0
        self._use = threading.Condition()
        self._users = 0
        self._closed = False

    def close(self, seconds: float = 2.0) -> bool:
        """No entries come any more; whether nobody is still asking for some, so that the plane may be freed."""
        with self._use:
            self._closed = True
            return self._use.wait_for(lambda: not self._users, seconds)

    @contextlib.contextmanager
    def _open(self) -> Iterator[bool]:
        with self._use:
            is_open = not self._closed
            self._users += 1
        try:
            yield is_open
        finally:
            with self._use:
                self._users -= 1
                self._use.notify_all()

    def know(self, number: int, event: DecisionEvent) -> None:
        """What the decisions of a verdict have in common."""
        self._events[number] = event

    def forget(self, numbers: list[int]) -> None:
        """No further decision of these verdicts comes."""
        self._leaving.extend((number, self._taken) for number in numbers)
        while self._leaving and self._leaving[0][1] + 1 < self._taken:
            del self._events[self._leaving.popleft()[0]]

    def wait(self, seconds: float) -> bool:
        """Whether there are entries, waiting so long for one."""
        with self._open() as is_open:
            return is_open and bool(self._library.plane_wait(self._plane, int(seconds * 1000)))

    def take(self) -> Entries:
        """All of them."""
        with self._open() as is_open:
            text, lines = self._batch() if is_open else (b"", b"")
        calls = [found for line in lines.decode("ascii").splitlines() if (found := self._calls(line)) is not None]
        self._taken += 1
        return Entries(text.decode("ascii").splitlines(), calls)

    def suspend(self, *, suspended: bool) -> None:
        """While nothing can be recorded the plane grants nothing."""
        with self._open() as is_open:
            if is_open:
                self._library.plane_suspend(self._plane, suspended)

    def _batch(self) -> tuple[bytes, bytes]:
        batch = Batch()
        self._library.plane_take_records(self._plane, ctypes.byref(batch))
        try:
            return (
                ctypes.string_at(batch.text, batch.text_length) if batch.text_length else b"",
                ctypes.string_at(batch.calls, batch.calls_length) if batch.calls_length else b"",
            )
        finally:
            self._library.plane_free_records(ctypes.byref(batch))

    def _calls(self, line: str) -> Calls | None:
        """None of a verdict that was freed while a thread that had it in hand stood still: its entry is written."""
        *numbers, method, path = line.split(" ") if line[-1] != " " else [*line.split(" "), ""]
        number, count, first, last = map(int, numbers)
        event = self._events.get(number)
        if event is None:
            return None
        if method:
            event = replace(event, method=method, path=path)
        return Calls(event, count, first / 1e6, last / 1e6)
