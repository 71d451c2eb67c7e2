"""Requests of a whole fleet in the state.db of one replica: its own go out, others come in, decisions settle them."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from cloned_proxy.policy.callers.tool_id import is_tool_id
from cloned_proxy.policy.secrets.redact import redact
from cloned_proxy.store.approvals import approval_table as table
from cloned_proxy.store.approvals.approval import Approval, ApprovalState, Proposal, entry_data
from cloned_proxy.store.approvals.approval_errors import ApprovalError
from cloned_proxy.store.approvals.approval_ledger import ApprovalLedger
from cloned_proxy.store.approvals.approval_rules import checked, key_of
from cloned_proxy.store.approvals.approval_table import Intent, Row
from cloned_proxy.store.files.files import signature_of
from cloned_proxy.store.leases.deadline import Deadline, uptime
from cloned_proxy.store.policyfile.policy_entry import Entry

_MOST_OF_OTHERS: Final = 500
_MOST_OF_ONE: Final = 100
"""Requests of one other replica."""
_TICK_SECONDS: Final = 0.1
"""Longer than the clock stands still by which a file system stamps files: two writes within it may look like one."""
_LISTS: Final = ("ports", "methods", "paths", "protocols", "addresses")


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of a request, and who said so."""

    state: ApprovalState
    by: str
    at: float
    """Unix seconds, of this machine's clock."""
    reason: str
    rules: tuple[str, ...] = ()
    summary: str = ""


class _Reading(NamedTuple):
    """What was read last."""

    looks: list[tuple[int, ...]]
    """What state.db and its write-ahead log looked like before the reading."""
    changed: float
    """When they first looked so (`uptime`)."""
    read: float
    rows: list[Row]


class ApprovalMirror:
    """Blocks on disk; thread-safe. Raises StoreError."""

    def __init__(
        self, path: Path, *, clock: Callable[[], float] = time.time, uptime: Callable[[], float] = uptime
    ) -> None:
        self._ledger = ApprovalLedger(path, clock, uptime)
        self._path = path
        self._write_ahead = path.with_name(f"{path.name}-wal")
        self._last: _Reading | None = None
        self._clock = clock
        self._uptime = uptime

    def own_pending(self) -> list[tuple[Approval, float]]:
        """Requests that were made here and wait, with the seconds that they still do."""
        now, up = self._clock(), self._uptime()
        rows = self._own_rows(up)
        return [(row.approval, max(0.0, row.deadline.wall - now)) for row in rows if not row.due(now=now, up=up)]

    def _own_rows(self, up: float) -> list[Row]:
        """Rows of state.db, or of the last reading where nothing was written since: to open it costs a millisecond."""
        looks, last, changed = [_look_at(self._path), _look_at(self._write_ahead)], self._last, up
        if last is not None and last.looks == looks:
            if last.read >= last.changed + _TICK_SECONDS:
                return last.rows
            changed = last.changed
        with self._ledger.reading() as database:
            rows = table.rows(database, pending=True, own=True)
        self._last = _Reading(looks, changed, up, rows)
        return rows

    def receive(self, approval: Approval, seconds: float) -> bool:
        """Takes in a request of another replica that waits so long; False where it or its equal is here already.

        Raises ApprovalError where so many of them wait that nobody looks through them.
        """
        proposal, rules = checked(approval.proposal)
        key = key_of(approval.asker, approval.origin, rules)
        now, up = self._clock(), self._uptime()
        ends = Deadline.after(seconds, now=now, up=up)
        taken = replace(approval, proposal=proposal, created=now, expires=ends.wall)
        with self._ledger.writing() as database:
            if table.find(database, approval.id) is not None or table.pending_with(database, key) is not None:
                return False
            if table.waiting_of_others(database) >= _MOST_OF_OTHERS:
                raise ApprovalError(f"{_MOST_OF_OTHERS} requests of other replicas wait already")
            if table.waiting_of(database, taken.replica) >= _MOST_OF_ONE:
                raise ApprovalError(f"{_MOST_OF_ONE} requests of {taken.replica} wait already")
            table.insert(database, taken, key, ends)
            self._ledger.record(database, taken, "received", actor=f"replica:{taken.replica}", why=taken.reason)
        return True

    def keep_others(self, there: Collection[str]) -> None:
        """Drops the requests of other replicas that the fleet no longer tells of: nobody can decide them there.

        One that is told again is received again. Until then it would stand in the place of an equal one that is real.
        """
        with self._ledger.writing() as database:
            table.drop_others(database, there)

    def settle(self, key: str, settled: Settled) -> str:
        """Follows a decision about what has this key (`key_of`), whoever asked for it.

        Returns the id of what waited here; "" when nothing did.
        """
        with self._ledger.writing() as database:
            row = table.pending_with(database, key)
            if row is None:
                return ""
            decided = replace(
                row.approval,
                state=settled.state,
                decided_by=settled.by,
                decided_at=settled.at,
                decided_reason=redact(settled.reason),
                rule_ids=settled.rules,
            )
            if table.settle(database, decided):
                summary = settled.summary or str(row.approval.proposal.addition)
                said = Intent("", settled.by, decided.decided_reason, settled.rules, summary)
                self._ledger.append(database, decided, settled.state, said)
        return row.approval.id


def _look_at(path: Path) -> tuple[int, ...]:
    """What differs once the file is written; its ctime does at each opening, since SQLite sets its owner as root."""
    *written, _ctime = signature_of(path) or (0,)
    return tuple(written)


def as_message(approval: Approval, replica: str) -> dict[str, Any]:
    """The request as others are told of it."""
    return {
        "id": approval.id,
        "asker": approval.asker,
        "origin": approval.origin,
        "run": approval.run,
        "replica": replica,
        "tool": approval.tool,
        "action": approval.action,
        "entries": [entry_data(entry) for entry in approval.entries],
        "for_seconds": approval.for_seconds,
        "uses": approval.uses,
        "reason": approval.reason,
        "count": approval.denied_count,
        "policy": approval.policy_version,
    }


def from_message(told: Mapping[str, Any], approval_id: str) -> Approval:
    """The pending request in what another replica, or a store that lies, has told. Raises ValueError, ApprovalError."""
    try:
        asker, replica, origin = str(told["asker"]), str(told["replica"]), told["origin"]
        if origin not in {"tool", "denied", "host"} or (origin != "host" and not is_tool_id(asker)):
            raise ValueError("nobody can have asked that")
        entries = tuple(map(entry_of, told["entries"]))
        proposal = Proposal(
            entries, told["tool"], told["action"], told["for_seconds"], told["uses"], str(told["reason"])
        )
        checked(proposal)
        return Approval(
            id=approval_id, created=0.0, expires=0.0, asker=redact(asker), proposal=proposal, origin=origin,
            run=None if told["run"] is None else redact(str(told["run"])), state="pending", decided_by="",
            decided_at=None, decided_reason="", denied_count=int(told["count"]),
            policy_version=redact(str(told["policy"])), rule_ids=(), replica=redact(replica) or "?",
        )  # fmt: skip
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a request ({type(error).__name__})") from error
    except ApprovalError as error:
        raise ValueError(str(error)) from error


def entry_of(stored: Mapping[str, Any]) -> Entry:
    """What `entry_data` made of an entry. Raises ValueError for what says more than a request may."""
    if not stored.keys() <= {"host", *_LISTS}:
        raise ValueError("an entry says more than a request may")
    lists: Any = {name: tuple(value) for name, value in stored.items() if name != "host"}
    return Entry(str(stored["host"]), **lists)
