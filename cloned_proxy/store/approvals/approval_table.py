"""The table `approvals` of state.db: requests for other rules, and what became of them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, Final

from cloned_proxy.store.approvals.approval import Approval, Proposal, entry_data
from cloned_proxy.store.leases.deadline import Deadline
from cloned_proxy.store.policyfile.policy_entry import Entry

_COLUMNS: Final = (
    "id, state, asker, created, expires, boot, uptime, body, count, intent, "
    "decided_by, decided_at, decided_reason, rules"
)

_REPLICA: Final = "json_extract(body, '$.replica')"
_OWN: Final = f"coalesce({_REPLICA}, '') = ''"


@dataclass(frozen=True, slots=True)
class Intent:
    """An approval that was begun: enough to tell afterwards whether it had reached the file."""

    version: str
    """Version of the policy that the approval makes."""
    actor: str
    reason: str
    rules: tuple[str, ...]
    summary: str
    """What is granted, with its terms."""


@dataclass(frozen=True, slots=True)
class Row:
    """An approval as it is stored."""

    approval: Approval
    deadline: Deadline
    intent: Intent | None

    def due(self, *, now: float, up: float) -> bool:
        return self.approval.state == "pending" and self.deadline.passed(now=now, up=up)

    def seen(self, *, now: float, up: float) -> Approval:
        """The approval for a reader: over when its time is, whether or not somebody has written that down yet."""
        if self.intent is None and self.due(now=now, up=up):
            return replace(self.approval, state="expired", decided_by="clock", decided_at=self.approval.expires)
        return self.approval


def insert(database: sqlite3.Connection, approval: Approval, key: str, deadline: Deadline) -> None:
    """A new pending request. Raises sqlite3.IntegrityError when one with this key is pending."""
    proposal = approval.proposal
    body = {
        "tool": proposal.tool,
        "action": proposal.action,
        "entries": [entry_data(entry) for entry in proposal.entries],
        "for_seconds": proposal.for_seconds,
        "uses": proposal.uses,
        "reason": proposal.reason,
        "origin": approval.origin,
        "run": approval.run,
        "policy_version": approval.policy_version,
        "replica": approval.replica,
    }
    database.execute(
        "INSERT INTO approvals (id, key, state, asker, created, expires, boot, uptime, body, count) "
        "VALUES (?, ?, 'pending', ?, ?, ?, ?, ?, ?, ?)",
        (approval.id, key, approval.asker, deadline.began, deadline.wall, deadline.boot, deadline.uptime,
         json.dumps(body), approval.denied_count),
    )  # fmt: skip


def pending_with(database: sqlite3.Connection, key: str) -> Row | None:
    """The pending request with this key."""
    return _one(database, "key = ? AND state = 'pending'", key)


def give_way(database: sqlite3.Connection, key: str) -> None:
    """Drops a pending request of another replica with this key: an equal one that is made here takes its place."""
    query = f"DELETE FROM approvals WHERE key = ? AND state = 'pending' AND {_REPLICA} <> ''"  # noqa: S608  fixed
    database.execute(query, (key,))


def find(database: sqlite3.Connection, approval_id: str) -> Row | None:
    """The request with this id."""
    return _one(database, "id = ?", approval_id)


def rows(database: sqlite3.Connection, *, pending: bool = False, own: bool = False, limit: int = 1000) -> list[Row]:
    """The newest first. `own` are those that were made here."""
    parts = ("state = 'pending'" if pending else "1", _OWN if own else "1")
    where = f"WHERE {' AND '.join(parts)}"
    query = f"SELECT {_COLUMNS} FROM approvals {where} ORDER BY created DESC, id LIMIT ?"  # noqa: S608  fixed parts
    return [_row(values) for values in database.execute(query, (limit,))]


def waiting_of_others(database: sqlite3.Connection) -> int:
    """Pending requests that came from other replicas."""
    query = f"SELECT count(*) FROM approvals WHERE state = 'pending' AND {_REPLICA} <> ''"  # noqa: S608  fixed
    return int(database.execute(query).fetchone()[0])


def waiting_of(database: sqlite3.Connection, replica: str) -> int:
    """Pending requests that came from this replica."""
    query = f"SELECT count(*) FROM approvals WHERE state = 'pending' AND {_REPLICA} = ?"  # noqa: S608  fixed
    return int(database.execute(query, (replica,)).fetchone()[0])


def drop_others(database: sqlite3.Connection, there: Collection[str]) -> None:
    """Drops pending requests of other replicas whose id is not one of these."""
    query = f"SELECT id FROM approvals WHERE state = 'pending' AND {_REPLICA} <> ''"  # noqa: S608  fixed
    gone = [(found,) for (found,) in database.execute(query).fetchall() if found not in there]
    database.executemany("DELETE FROM approvals WHERE id = ?", gone)


def raise_count(database: sqlite3.Connection, approval_id: str, by: int) -> None:
    """Counts more of the same; without effect on a request that is decided."""
    database.execute("UPDATE approvals SET count = count + ? WHERE id = ? AND state = 'pending'", (by, approval_id))


def asked_since(database: sqlite3.Connection, asker: str, since: float) -> list[float]:
    """When the asker's requests since then were made here, the oldest first."""
    query = f"SELECT created FROM approvals WHERE asker = ? AND created > ? AND {_OWN} ORDER BY created"  # noqa: S608
    return [at for (at,) in database.execute(query, (asker, since))]


def rejected_since(database: sqlite3.Connection, key: str, since: float) -> bool:
    """Whether a request with this key was rejected after then (Unix seconds)."""
    query = "SELECT 1 FROM approvals WHERE key = ? AND state = 'rejected' AND decided_at > ? LIMIT 1"
    return database.execute(query, (key, since)).fetchone() is not None


def set_intent(database: sqlite3.Connection, approval_id: str, intent: Intent | None) -> bool:
    """Writes down a yes that is about to reach the file, or takes it back; False when it is too late for that."""
    text = (
        None
        if intent is None
        else json.dumps([intent.version, intent.actor, intent.reason, intent.rules, intent.summary])
    )
    query = "UPDATE approvals SET intent = ? WHERE id = ? AND state = 'pending'"
    return database.execute(query, (text, approval_id)).rowcount == 1


def settle(database: sqlite3.Connection, decided: Approval) -> bool:
    """Writes a decision; False when the request is not pending any more."""
    changed = database.execute(
        "UPDATE approvals SET state = ?, decided_by = ?, decided_at = ?, decided_reason = ?, rules = ?, intent = NULL "
        "WHERE id = ? AND state = 'pending'",
        (decided.state, decided.decided_by, decided.decided_at, decided.decided_reason, json.dumps(decided.rule_ids),
         decided.id),
    )  # fmt: skip
    return changed.rowcount == 1


def forget_decided(database: sqlite3.Connection, *, before: float) -> None:
    """Drops decided requests that were made before then (Unix seconds)."""
    database.execute("DELETE FROM approvals WHERE state <> 'pending' AND created < ?", (before,))


def _one(database: sqlite3.Connection, where: str, value: str) -> Row | None:
    found = database.execute(f"SELECT {_COLUMNS} FROM approvals WHERE {where}", (value,)).fetchone()  # noqa: S608  fixed
    return None if found is None else _row(found)


def _row(values: tuple[Any, ...]) -> Row:
    (approval_id, state, asker, created, expires, boot, uptime, text, count, intent, by, at, reason, rules) = values
    body = json.loads(text)
    entries = tuple(map(_entry, body["entries"]))
    proposal = Proposal(entries, body["tool"], body["action"], body["for_seconds"], body["uses"], body["reason"])
    approval = Approval(
        id=approval_id,
        created=created,
        expires=expires,
        asker=asker,
        proposal=proposal,
        origin=body["origin"],
        run=body["run"],
        state=state,
        decided_by=by,
        decided_at=at,
        decided_reason=reason,
        denied_count=count,
        policy_version=body["policy_version"],
        rule_ids=tuple(json.loads(rules)),
        replica=body.get("replica", ""),
    )
    begun = None if intent is None else json.loads(intent)
    return Row(
        approval,
        Deadline(created, expires, boot, uptime),
        None if begun is None else Intent(begun[0], begun[1], begun[2], tuple(begun[3]), begun[4]),
    )


def _entry(stored: dict[str, Any]) -> Entry:
    lists: Any = {name: tuple(value) for name, value in stored.items() if name != "host"}
    return Entry(stored["host"], **lists)
