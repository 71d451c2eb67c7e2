"""One group of the audit writer: what is written together, in one transaction."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from cloned_proxy.store.audit.audit_log import append_bodies, append_events, forget_rules, lease_use
from cloned_proxy.store.audit.audit_retention import Retention
from cloned_proxy.store.audit.audit_tail import AuditTail, Written
from cloned_proxy.store.audit.policy_history import PolicySnapshot, remember
from cloned_proxy.store.audit.tally_writer import TallyWriter
from cloned_proxy.store.audit.transaction import transaction
from cloned_proxy.telemetry.events import (
    AuditUnavailableError,
    DecisionEvent,
    Entries,
    EntrySource,
    Event,
    LeaseUsedUpError,
)


@dataclass(frozen=True, slots=True)
class Awaited:
    """An event whose request waits until it is on disk; without one, until all that came before is."""

    event: Event | None
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[None]
    uses: int | None = None
    """The `max_uses` of the event's rule; the event takes one of them."""

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
class Forget:
    """Rules whose lease counts go."""

    rules: tuple[str, ...]


type Item = Event | Awaited | Forget | PolicySnapshot


class GroupWriter:
    """Writes groups on the writer's thread. `source` is who else has put something on record, set when there is one."""

    def __init__(self, database: sqlite3.Connection, retention: Retention, tail: AuditTail | None = None) -> None:
        """`tail` gets what is committed."""
        self._database = database
        self._retention = retention
        self._tally = TallyWriter()
        self.source: EntrySource | None = None
        self._entries: list[Entries] = []
        """Taken from the source, and not committed yet."""
        self._tail = tail
        self._written: list[Written] = []
        """Entries of the group that is being written, where there is a tail."""

    @property
    def source_waits(self) -> bool:
        return bool(self._entries) or (self.source is not None and self.source.wait(0))

    def write(self, group: Sequence[Item], *, even_empty: bool) -> list[Awaited]:
        """Writes one group in one transaction; returns those whose rule had no use left, which were not written.

        `even_empty`: after a failure even an empty group writes a page, because only that shows that the disk takes
        data again. Raises sqlite3.Error, with nothing written.
        """
        if not group and not even_empty and not self.source_waits:
            return []
        self._written.clear()
        try:
            with transaction(self._database):
                self._database.execute("UPDATE meta SET value = value WHERE key = 'head_seq'")
                self._append_entries()  # first: what the group says of their decisions comes behind them
                too_late = self._append_items(group)
        except BaseException:
            self._tally = TallyWriter()  # what it knew of rows may have been taken back
            raise
        self._entries.clear()
        if self._tail is not None:
            for written in self._written:
                self._tail.add(written)
            self._written.clear()  # what a large group was is not kept until the next one
        return too_late

    def _append_items(self, group: Sequence[Item]) -> list[Awaited]:
        too_late: list[Awaited] = []
        events: list[Event] = []
        used: dict[str, int] = {}
        for item in group:
            if isinstance(item, Forget):
                self._append(events)
                events, used = [], {}
                forget_rules(self._database, item.rules)
            elif isinstance(item, PolicySnapshot):
                remember(self._database, item)
            elif not isinstance(item, Awaited):
                events.append(item)
            elif item.event is None:
                pass
            elif self._takes(item, item.event, used):
                events.append(item.event)
            else:
                too_late.append(item)
        self._append(events)
        return too_late

    def _append_entries(self) -> None:
        if self.source is not None and self.source.wait(0):
            self._entries.append(self.source.take())
        for entries in self._entries:
            self._note(append_bodies(self._database, entries))
            self._tally.add_calls(self._database, entries.calls)
            self._retention.wrote(len(entries.bodies))

    def _append(self, events: list[Event]) -> None:
        self._note(append_events(self._database, events))
        self._tally.add(self._database, events)
        self._retention.wrote(len(events))

    def _note(self, written: list[Written]) -> None:
        if self._tail is not None:
            self._written += written

    def _takes(self, item: Awaited, event: Event, used: dict[str, int]) -> bool:
        """Whether the event may be written. `used` counts this group's uses, too: nobody else can take one now."""
        if item.uses is None or not isinstance(event, DecisionEvent):
            return True
        taken = used.get(event.rule)
        if taken is None:
            taken = lease_use(self._database, event.rule)
        used[event.rule] = taken + 1 if taken < item.uses else taken
        return taken < item.uses
