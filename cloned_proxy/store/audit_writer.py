"""The audit writer: the one thread of this process that writes state.db.

The event loop only appends to a queue; JSON, hashing and fsync happen here, in groups. When the disk refuses, `record`
raises, and the enforcer refuses the request: nothing passes that is not on record. When the disk is merely slow,
callers wait (`store/audit_backlog.py`): overload refuses nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from cloned_proxy.store.audit_backlog import Backlog, Owner
from cloned_proxy.store.audit_log import append_bodies, append_events, forget_rules, lease_use
from cloned_proxy.store.audit_retention import PRUNE_SECONDS, Retention
from cloned_proxy.store.database import open_database
from cloned_proxy.store.errors import StoreError
from cloned_proxy.store.policy_history import Snapshot, remember
from cloned_proxy.store.tally_writer import TallyWriter
from cloned_proxy.telemetry.events import (
    AuditUnavailableError,
    DecisionEvent,
    Entries,
    EntrySource,
    Event,
    LeaseUsedUpError,
    RunEvent,
)

_log = structlog.get_logger(__name__)

_GATHER_SECONDS: Final = 0.02
"""How long a group may grow; the commit itself comes on top, and both stay within 50 ms on a healthy disk."""
_RETRY_SECONDS: Final = 1.0
_CLOSE_SECONDS: Final = 10.0
_WATCH_SECONDS: Final = 0.25


@dataclass(frozen=True, slots=True)
class _Awaited:
    """An event whose request waits until it is on disk; without one, until all that came before is."""

    event: Event | None
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[None]
    uses: int | None = None
    """Of its rule; the event takes one."""

    def settle(self, failure: AuditUnavailableError | LeaseUsedUpError | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self.loop.call_soon_threadsafe(self._settle, failure)

    def _settle(self, failure: AuditUnavailableError | LeaseUsedUpError | None) -> None:
        if self.future.done():
            return
        if failure is None:
            self.future.set_result(None)
        else:
            self.future.set_exception(failure)


@dataclass(frozen=True, slots=True)
class _Forget:
    """Rules whose lease counts go."""

    rules: tuple[str, ...]


type _Item = Event | _Awaited | _Forget | Snapshot


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
    ) -> None:
        """`queue` is how many events may wait for the disk before callers do: see `Backlog`.

        `on_queue` is told their number, `on_size` the bytes of the log, both on the writer's thread.
        """
        self._path = path
        self._backlog = Backlog(queue)
        self._on_queue = on_queue
        self._database = open_database(path)
        self._retention = self._kept_for(retention_days, max_mib << 20, clock, on_size)
        self._tally = TallyWriter()
        self._inode = path.stat().st_ino
        self._queue: deque[tuple[_Item, Owner]] = deque()
        self._failure: str | None = None
        self._closed = False
        self._wake = threading.Event()
        self._urgent = threading.Event()
        self._source: EntrySource | None = None
        self._watcher: threading.Thread | None = None
        self._entries: list[Entries] = []
        """Taken from the source, and not committed yet."""
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

    def join(self, source: EntrySource) -> None:
        """Writes from now on also what the source has put on record. Once."""
        self._source = source
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
        return self._backlog.behind(owner)

    async def caught_up(self) -> None:
        """Returns when everything that was queued before is on disk. Raises AuditUnavailableError."""
        await self._settled(None, None, None)

    def forget(self, rules: tuple[str, ...]) -> None:
        """Drops the lease counts of rules, after everything queued so far. Raises AuditUnavailableError."""
        self._accept(_Forget(rules))

    def remember(self, snapshot: Snapshot) -> None:
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
        awaited = _Awaited(event, loop, loop.create_future(), uses)
        self._accept(awaited, owner)
        self._urgent.set()
        await awaited.future

    def _accept(self, item: _Item, owner: Owner = None) -> None:
        if self._failure is not None or self._closed or not self._thread.is_alive():
            raise AuditUnavailableError(self.failure or "the audit writer is closed")
        self._backlog.grew(owner)
        self._queue.append((item, owner))
        if not self._wake.is_set():
            self._wake.set()

    # Everything below runs on the writer's thread.

    def _run(self) -> None:
        batch: list[tuple[_Item, Owner]] = []
        try:
            while True:
                if self._failure is None and self._retention.work_when_due():
                    self._wake.set()  # there may be more, but what is queued goes first
                self._wake.wait(timeout=PRUNE_SECONDS)
                if not batch:
                    self._urgent.wait(timeout=_GATHER_SECONDS)
                    batch = self._take()
                batch = self._write(batch)
                if self._failure is not None and self._closed:
                    _log.error("audit events lost at shutdown", events=len(batch), reason=self._failure)
                    return
                if self._failure is not None:
                    time.sleep(_RETRY_SECONDS)
                elif self._closed and not self._queue and not self._source_waits():
                    return
        except BaseException as error:
            self._fail(f"the audit writer died: {error!r}")
            raise
        finally:
            self._refuse([item for item, _ in (*batch, *self._queue)])
            self._database.close()

    def _source_waits(self) -> bool:
        return bool(self._entries) or (self._source is not None and self._source.wait(0))

    def _take(self) -> list[tuple[_Item, Owner]]:
        self._wake.clear()
        self._urgent.clear()
        count = len(self._queue)
        if self._on_queue is not None:
            self._on_queue(count)
        return [self._queue.popleft() for _ in range(count)]

    def _write(self, batch: list[tuple[_Item, Owner]]) -> list[tuple[_Item, Owner]]:
        """Writes one group; returns what must be tried again."""
        items = [item for item, _ in batch]
        try:
            self._check_file()
            too_late = self._transact(items)
        except (sqlite3.Error, OSError) as error:
            self._fail(f"{self._path}: the audit log cannot be written: {error}")
            # A request that waited is refused now, so its event must not appear as a pass later.
            self._refuse(items)
            self._backlog.shrank(owner for item, owner in batch if isinstance(item, _Awaited))
            self._wake.set()
            return [(item, owner) for item, owner in batch if not isinstance(item, _Awaited)]
        if self._failure is not None:
            _log.info("the audit log is writable again")
            self._failure = None
            if self._source is not None:
                self._source.suspend(suspended=False)
        self._backlog.shrank(owner for _, owner in batch)
        if self._on_queue is not None:
            self._on_queue(len(self._queue))
        for late in too_late:
            late.settle(LeaseUsedUpError())
        for item in items:
            if isinstance(item, _Awaited):  # settled already: without effect
                item.settle(None)
        return []

    def _transact(self, batch: Sequence[_Item]) -> list[_Awaited]:
        """Writes one group in one transaction; returns those whose rule had no use left, which were not written."""
        too_late: list[_Awaited] = []
        if not batch and self._failure is None and not self._source_waits():
            return too_late
        self._database.execute("BEGIN IMMEDIATE")
        try:
            # After a failure even an empty group writes a page: only that shows that the disk takes data again.
            self._database.execute("UPDATE meta SET value = value WHERE key = 'head_seq'")
            self._append_entries()  # first: what the group says of their decisions comes behind them
            events: list[Event] = []
            used: dict[str, int] = {}
            for item in batch:
                if isinstance(item, _Forget):
                    self._append(events)
                    events, used = [], {}
                    forget_rules(self._database, item.rules)
                elif isinstance(item, Snapshot):
                    remember(self._database, item)
                elif not isinstance(item, _Awaited):
                    events.append(item)
                elif item.event is None:
                    pass
                elif self._takes(item, item.event, used):
                    events.append(item.event)
                else:
                    too_late.append(item)
            self._append(events)
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            self._tally = TallyWriter()  # what it knew of rows may have been taken back
            raise
        self._entries.clear()
        return too_late

    def _append_entries(self) -> None:
        if self._source is not None and self._source.wait(0):
            self._entries.append(self._source.take())
        for entries in self._entries:
            append_bodies(self._database, entries)
            self._tally.add_calls(self._database, entries.calls)
            self._retention.wrote(len(entries.bodies))

    def _append(self, events: list[Event]) -> None:
        append_events(self._database, events)
        self._tally.add(self._database, events)
        self._retention.wrote(len(events))

    def _takes(self, item: _Awaited, event: Event, used: dict[str, int]) -> bool:
        """Whether the event may be written. `used` counts this group's uses, too: nobody else can take one now."""
        if item.uses is None or not isinstance(event, DecisionEvent):
            return True
        taken = used.get(event.rule)
        if taken is None:
            taken = lease_use(self._database, event.rule)
        used[event.rule] = taken + 1 if taken < item.uses else taken
        return taken < item.uses

    def _check_file(self) -> None:
        # SQLite would go on writing into a file that was deleted or replaced, where nobody ever reads it.
        if os.stat(self._path, follow_symlinks=False).st_ino != self._inode:  # noqa: PTH116  no Path on each group
            raise OSError("the file was replaced while in use; restart the proxy")

    def _fail(self, reason: str) -> None:
        if self._failure is None:
            _log.error("audit log unavailable; requests are refused until it is back", reason=reason)
        self._failure = reason
        if self._source is not None:
            self._source.suspend(suspended=True)

    def _refuse(self, items: Sequence[_Item]) -> None:
        for item in items:
            if isinstance(item, _Awaited):
                item.settle(AuditUnavailableError(self._failure or "the audit writer is closed"))
