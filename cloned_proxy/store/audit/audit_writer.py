"""The audit writer: the one thread of this process that writes state.db.

The event loop only appends to a queue; JSON, hashing and fsync happen here, in groups. When the disk refuses, `record`
raises, and the enforcer refuses the request: nothing passes that is not on record. When the disk is merely slow,
callers wait (`store/audit/audit_backlog.py`): overload refuses nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import structlog

from cloned_proxy.store.audit.audit_backlog import Owner
from cloned_proxy.store.audit.audit_group import Awaited, Forget, GroupWriter, Item
from cloned_proxy.store.audit.audit_log import append_events
from cloned_proxy.store.audit.audit_queue import AuditQueue
from cloned_proxy.store.audit.audit_retention import PRUNE_SECONDS, Retention
from cloned_proxy.store.audit.audit_tail import AuditTail
from cloned_proxy.store.audit.database import open_database
from cloned_proxy.store.audit.policy_history import PolicySnapshot
from cloned_proxy.store.audit.transaction import transaction
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.telemetry.events import (
    AuditUnavailableError,
    DecisionEvent,
    EntrySource,
    Event,
    LeaseUsedUpError,
    RunEvent,
)

_log = structlog.get_logger(__name__)

_GATHER_SECONDS: Final = 0.02
"""How long a group may grow; the commit itself comes on top, and both stay within 50 ms on a healthy disk."""
_CACHE_KIB: Final = 128
"""SQLite's page cache. The writer appends: the ends of a table and its indexes are all that it comes back to. More of
it costs memory and gains nothing: 18 µs an event in groups of 30, 14 in groups of 300, as with eight times as much."""
_RETRY_SECONDS: Final = 1.0
_CLOSE_SECONDS: Final = 10.0
_WATCH_SECONDS: Final = 0.25


class AuditWriter:
    """An `AuditSink`. Opens the database (raises StoreError) and starts its thread; `close` writes what is queued."""

    def __init__(
        self,
        path: Path,
        *,
        queue: int = 10_000,
        retention_days: int = 90,
        max_mib: int = 2048,
        clock: Callable[[], float] = time.time,
        on_queue: Callable[[int], None] | None = None,
        on_size: Callable[[int], None] | None = None,
        tail: AuditTail | None = None,
    ) -> None:
        """`queue` is how many events may wait for the disk before callers do: see `Backlog`.

        `on_queue` is told their number, `on_size` the bytes of the log, both on the writer's thread.
        `tail` gets what is committed.
        """
        self._path = path
        self._on_queue = on_queue
        self._database = open_database(path)
        self._database.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._retention = self._kept_for(retention_days, max_mib << 20, clock, on_size)
        self._group = GroupWriter(self._database, self._retention, tail)
        self._inode = path.stat().st_ino
        self._queue = AuditQueue[Item](queue)
        self._failure: str | None = None
        self._closed = False
        self._wake = threading.Event()
        self._urgent = threading.Event()
        self._watcher: threading.Thread | None = None
        self._thread = threading.Thread(target=self._run, name="audit-writer", daemon=True)
        self._thread.start()

    @property
    def failure(self) -> str | None:
        """Why nothing can be recorded now; None while the writer works."""
        if self._failure is None and not self._thread.is_alive():
            return "the audit writer is not running"
        return self._failure

    @property
    def healthy(self) -> bool:
        return self.failure is None

    def record(self, event: Event, *, owner: Owner = None) -> None:
        """Queues one event; about a microsecond. Raises AuditUnavailableError.

        It counts against the share of its `owner`, who is asked to wait by `behind`, never here.
        """
        self._accept(event, owner)
        if isinstance(event, RunEvent):
            self._urgent.set()  # whoever ran it waits for its last entry, and nothing else of it comes

    def denied(self, event: DecisionEvent, *, owner: Owner = None, summary: bool = False) -> str:
        """As `record`; what waits already and differs only in id and time counts one up instead (`AuditQueue`)."""
        self._check()
        decision_id = self._queue.put_denial(event, owner, summary=summary)
        if not self._wake.is_set():
            self._wake.set()
        return decision_id

    def join(self, source: EntrySource) -> None:
        """Writes from now on also what the source has put on record. Once."""
        self._group.source = source
        self._watcher = threading.Thread(target=self._watch, args=(source,), name="audit-source", daemon=True)
        self._watcher.start()

    def _watch(self, source: EntrySource) -> None:
        while not self._closed:
            if source.wait(_WATCH_SECONDS):
                self._wake.set()
                time.sleep(_GATHER_SECONDS)

    async def commit(self, event: Event, *, uses: int | None = None, owner: Owner = None) -> None:
        """Queues one event and returns when it is on disk, with one of its rule's `uses` taken if that says a number.

        Raises LeaseUsedUpError when no use is left, and AuditUnavailableError.
        """
        await self._settled(event, uses, owner)

    def behind(self, owner: Owner) -> bool:
        """Whether this caller has more than its share of a long queue, and should wait for `caught_up` first."""
        return self._queue.behind(owner)

    async def caught_up(self) -> None:
        """Returns when everything that was queued before is on disk. Raises AuditUnavailableError."""
        await self._settled(None, None, None)

    def forget(self, rules: tuple[str, ...]) -> None:
        """Drops the lease counts of rules, after everything queued so far. Raises AuditUnavailableError."""
        self._accept(Forget(rules))

    def remember(self, snapshot: PolicySnapshot) -> None:
        """Queues a version of the policy for its history, unless it is there already. Raises AuditUnavailableError."""
        self._accept(snapshot)

    def _kept_for(
        self, days: int, max_bytes: int, clock: Callable[[], float], on_size: Callable[[int], None] | None
    ) -> Retention:
        try:
            return Retention(self._database, days=days, max_bytes=max_bytes, clock=clock, on_size=on_size)
        except sqlite3.Error as error:
            self._database.close()
            raise StoreError(f"{self._path}: {error}; run `cloned-proxy audit verify`") from error

    def close(self) -> None:
        """Writes what is queued, stops the thread and closes the database. Later events are refused."""
        self._closed = True
        self._urgent.set()
        self._wake.set()
        self._thread.join(timeout=_CLOSE_SECONDS)
        if self._watcher is not None:
            self._watcher.join(timeout=_CLOSE_SECONDS)

    async def _settled(self, event: Event | None, uses: int | None, owner: Owner) -> None:
        loop = asyncio.get_running_loop()
        awaited = Awaited(event, loop, loop.create_future(), uses)
        self._accept(awaited, owner)
        self._urgent.set()
        await awaited.future

    def _accept(self, item: Item, owner: Owner = None) -> None:
        self._check()
        self._queue.put(item, owner)
        if not self._wake.is_set():
            self._wake.set()

    def _check(self) -> None:
        if self._failure is not None or self._closed or not self._thread.is_alive():
            raise AuditUnavailableError(self.failure or "the audit writer is closed")

    # Everything below runs on the writer's thread.

    def _run(self) -> None:
        batch: list[tuple[Item, Owner]] = []
        try:
            while True:
                if self._failure is None and self._retention.work_when_due():
                    self._wake.set()  # there may be more, but what is queued goes first
                self._wake.wait(timeout=self._queue.patience(PRUNE_SECONDS))
                if not batch:
                    self._urgent.wait(timeout=_GATHER_SECONDS)
                    batch = self._take()
                batch = self._write(batch)
                if self._failure is not None and self._closed:
                    batch += self._take()
                    self._write_elsewhere([item for item, _ in batch])
                    return
                if self._failure is not None:
                    time.sleep(_RETRY_SECONDS)
                elif self._closed and not self._queue and not self._group.source_waits:
                    return
        except BaseException as error:
            self._fail(f"the audit writer died: {error!r}")
            raise
        finally:
            self._refuse([item for item, _ in (*batch, *self._queue.take(closing=True))])
            self._database.close()

    def _take(self) -> list[tuple[Item, Owner]]:
        self._wake.clear()
        self._urgent.clear()
        taken = self._queue.take(closing=self._closed)
        if self._on_queue is not None:
            self._on_queue(len(taken))
        return taken

    def _write(self, batch: list[tuple[Item, Owner]]) -> list[tuple[Item, Owner]]:
        """Writes one group; returns what must be tried again."""
        items = [item for item, _ in batch]
        try:
            self._check_file()
            too_late = self._group.write(items, even_empty=self._failure is not None)
        except (sqlite3.Error, OSError) as error:
            self._fail(f"{self._path}: the audit log cannot be written: {error}")
            # A request that waited is refused now, so its event must not appear as a pass later.
            self._refuse(items)
            self._queue.done(owner for item, owner in batch if isinstance(item, Awaited))
            self._wake.set()
            return [(item, owner) for item, owner in batch if not isinstance(item, Awaited)]
        if self._failure is not None:
            _log.info("the audit log is writable again")
            self._failure = None
            if self._group.source is not None:
                self._group.source.suspend(suspended=False)
        self._queue.done(owner for _, owner in batch)
        if self._on_queue is not None:
            self._on_queue(len(self._queue))
        for late in too_late:
            late.settle(LeaseUsedUpError())
        for item in items:
            if isinstance(item, Awaited):  # settled already: without effect
                item.settle(None)
        return []

    def _write_elsewhere(self, items: Sequence[Item]) -> None:
        """At the end, what waits goes into the file that lies in the place of ours by now, as after the next start."""
        events = [item for item in items if not isinstance(item, Awaited | Forget | PolicySnapshot)]
        try:
            if self._path.exists() and self._path.stat().st_ino == self._inode:
                _log.error("audit events lost at shutdown", events=len(events), reason=self._failure)
                return
            with contextlib.closing(open_database(self._path)) as there, transaction(there):
                append_events(there, events)
        except (sqlite3.Error, OSError, StoreError) as error:
            _log.error("audit events lost at shutdown", events=len(events), reason=str(error))

    def _check_file(self) -> None:
        # SQLite would go on writing into a file that was deleted or replaced, where nobody ever reads it.
        if os.stat(self._path, follow_symlinks=False).st_ino != self._inode:  # noqa: PTH116  no Path on each group
            raise OSError("the file was replaced while in use; restart the proxy")

    def _fail(self, reason: str) -> None:
        if self._failure is None:
            _log.error("audit log unavailable; requests are refused until it is back", reason=reason)
        self._failure = reason
        if self._group.source is not None:
            self._group.source.suspend(suspended=True)

    def _refuse(self, items: Sequence[Item]) -> None:
        for item in items:
            if isinstance(item, Awaited):
                item.settle(AuditUnavailableError(self._failure or "the audit writer is closed"))
