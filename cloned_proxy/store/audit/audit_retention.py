"""What leaves the audit log, always from its oldest end: what is too old, and what makes the log too large."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from typing import Final

import structlog

from cloned_proxy.store.audit.audit_log import newest_at, prune_entries, used_bytes
from cloned_proxy.store.audit.tally_writer import TallyWriter, backfill, prune_tally

_log = structlog.get_logger(__name__)

PRUNE_SECONDS: Final = 3600.0
_DAY: Final = 86_400.0
_LOOK_AFTER: Final = 5000
"""Written entries after which the size is looked at again: a few megabytes."""


class Retention:
    """Works on the writer's thread, in small transactions between its groups. Raises sqlite3.Error when made."""

    def __init__(
        self,
        database: sqlite3.Connection,
        *,
        days: int,
        max_bytes: int,
        clock: Callable[[], float],
        on_size: Callable[[int], None] | None = None,
    ) -> None:
        """`on_size` is told how many bytes the log takes up, each time that they are counted."""
        self._database = database
        self._seconds = days * _DAY
        self._max_bytes = max_bytes
        self._now = _RetentionClock(clock, newest_at(database))
        self._on_size = on_size
        self._older = TallyWriter()
        self._next = 0.0
        self._written = 0
        self._too_large = False

    def wrote(self, entries: int) -> None:
        self._written += entries

    def work_when_due(self) -> bool:
        """Removes one group; whether there may be more to do. What cannot be done now is tried again later."""
        if time.monotonic() < self._next and self._written < _LOOK_AFTER:
            return False
        try:
            more = self._work()
        except sqlite3.Error as error:
            _log.warning("old audit entries were not removed; tried again in an hour", reason=str(error))
            more = False
        if not more:
            self._next = time.monotonic() + PRUNE_SECONDS
            self._written = 0
        return more

    def _work(self) -> bool:
        database, before = self._database, self._now() - self._seconds
        if prune_entries(database, before=before) or self._shrink() or backfill(database, self._older):
            return True
        prune_tally(database, before=before)
        return False

    def _shrink(self) -> bool:
        """Whether a group went because the log is over its bound."""
        size = used_bytes(self._database)
        if self._on_size is not None:
            self._on_size(size)
        too_large = size > self._max_bytes
        if too_large and not self._too_large:
            _log.warning(
                "the audit log has reached audit.max_mib; its oldest entries go",
                mebibytes=size >> 20, max_mib=self._max_bytes >> 20,
            )  # fmt: skip
        self._too_large = too_large
        return too_large and prune_entries(self._database, before=None) > 0


class _RetentionClock:
    """How old entries are: runs with the monotonic clock, and is never ahead of the wall clock.

    A wall clock that jumps years ahead would otherwise age the whole log in a moment. One that is wrong at the start
    is noticed by the newest entry; after a real pause of months the first run keeps a little more than it must.
    """

    def __init__(self, clock: Callable[[], float], newest: float | None) -> None:
        self._clock = clock
        self._began = time.monotonic()
        self._at = clock() if newest is None else min(clock(), newest + _DAY)

    def __call__(self) -> float:
        return min(self._clock(), self._at + time.monotonic() - self._began)
