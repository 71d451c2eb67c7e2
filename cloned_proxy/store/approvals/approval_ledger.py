"""The requests of one workspace in its state.db, each change of them in one transaction with its audit entry."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Final

from cloned_proxy.store.approvals import approval_table as table
from cloned_proxy.store.approvals.approval import Approval, ApprovalState
from cloned_proxy.store.approvals.approval_errors import DecidedError, UnknownApprovalError
from cloned_proxy.store.approvals.approval_table import Intent, Row
from cloned_proxy.store.audit.audit_log import append_events
from cloned_proxy.store.audit.database import reading, writing
from cloned_proxy.telemetry.events import ApprovalEvent

_BY_TIME: Final = "clock"


class ApprovalLedger:
    """Blocks on disk; opens the database for each call, so any thread may use it. Raises StoreError."""

    def __init__(self, path: Path, clock: Callable[[], float], uptime: Callable[[], float]) -> None:
        self._path = path
        self._clock = clock
        self._uptime = uptime

    def get(self, approval_id: str) -> Approval:
        """Raises UnknownApprovalError."""
        with self.reading() as database:
            return _known(database, approval_id).seen(now=self._clock(), up=self._uptime())

    def newest(self, *, pending: bool, limit: int) -> list[Approval]:
        """The newest first, as they are now."""
        now, up = self._clock(), self._uptime()
        with self.reading() as database:
            found = table.rows(database, pending=pending, limit=limit)
        return [row.seen(now=now, up=up) for row in found]

    def states(self, ids: Sequence[str]) -> dict[str, ApprovalState]:
        """The state of each id that exists."""
        now, up = self._clock(), self._uptime()
        with self.reading() as database:
            found = [row for approval_id in ids if (row := table.find(database, approval_id)) is not None]
        return {row.approval.id: row.seen(now=now, up=up).state for row in found}

    def begun(self) -> list[tuple[Approval, Intent]]:
        """Pending requests with a yes that may or may not have reached the policy file."""
        with self.reading() as database:
            return [(row.approval, row.intent) for row in table.rows(database, pending=True) if row.intent is not None]

    def any_due(self) -> bool:
        """Whether the time of a pending request is over."""
        now, up = self._clock(), self._uptime()
        with self.reading() as database:
            return any(row.due(now=now, up=up) for row in table.rows(database, pending=True))

    def open_request(self, approval_id: str) -> Approval:
        """A pending request; what ran out of time is ended first. Raises UnknownApprovalError, DecidedError."""
        with self.writing() as database:
            self.expire_due(database)
            approval = _known(database, approval_id).approval
        if approval.state != "pending":
            raise DecidedError(approval)
        return approval

    def begin(self, approval: Approval, intent: Intent) -> None:
        """Writes down a yes before it reaches the policy file. Raises DecidedError."""
        with self.writing() as database:
            if not table.set_intent(database, approval.id, intent):
                raise DecidedError(_known(database, approval.id).approval)

    def take_back(self, approval: Approval, *, conflict_with: str | None = None) -> None:
        """After an edit that did not happen; with an actor, the conflict goes on record."""
        with self.writing() as database:
            table.set_intent(database, approval.id, None)
            if conflict_with is not None:
                why = "what the reviewer had seen has changed"
                self.record(database, approval, "conflict", actor=conflict_with, why=why)

    def approve(self, approval: Approval, intent: Intent) -> Approval:
        """Settles a yes that has reached the policy file. Raises DecidedError."""
        return self._settle(approval, "approved", intent)

    def reject(self, approval: Approval, *, actor: str, reason: str) -> Approval:
        """Settles a no. Raises DecidedError when another decision was faster."""
        return self._settle(approval, "rejected", Intent("", actor, reason, (), str(approval.proposal.addition)))

    def _settle(self, approval: Approval, state: ApprovalState, said: Intent) -> Approval:
        decided = replace(
            approval,
            state=state,
            decided_by=said.actor,
            decided_at=self._clock(),
            decided_reason=said.reason,
            rule_ids=said.rules,
        )
        with self.writing() as database:
            if not table.settle(database, decided):
                raise DecidedError(_known(database, approval.id).approval)
            self.append(database, decided, state, said)
        return decided

    def expire_due(self, database: sqlite3.Connection) -> int:
        """Ends what nobody decided in time, inside the caller's transaction; a yes that was begun is left alone."""
        now, up = self._clock(), self._uptime()
        ended = 0
        for row in table.rows(database, pending=True):
            if row.intent is None and row.due(now=now, up=up):
                expired = replace(row.approval, state="expired", decided_by=_BY_TIME, decided_at=now)
                table.settle(database, expired)
                self.record(database, expired, "expired", actor=_BY_TIME, why="nobody decided in time")
                ended += 1
        return ended

    def record(
        self, database: sqlite3.Connection, approval: Approval, action: str, *, actor: str, why: str, version: str = ""
    ) -> None:
        """Puts one step on record, inside the caller's transaction."""
        self.append(database, approval, action, Intent(version, actor, why, (), str(approval.proposal.addition)))

    def append(self, database: sqlite3.Connection, approval: Approval, action: str, said: Intent) -> None:
        asker = None if approval.origin == "host" else approval.asker
        event = ApprovalEvent(
            self._clock(), action, approval.id, said.actor, asker, said.summary, said.reason, said.version
        )
        append_events(database, [event])

    def reading(self) -> AbstractContextManager[sqlite3.Connection]:
        return reading(self._path)

    def writing(self) -> AbstractContextManager[sqlite3.Connection]:
        return writing(self._path)


def _known(database: sqlite3.Connection, approval_id: str) -> Row:
    row = table.find(database, approval_id)
    if row is None:
        raise UnknownApprovalError(f"there is no request {approval_id!r}; `cloned-proxy approvals list --all` has them")
    return row
