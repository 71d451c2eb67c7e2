"""How long leases still last, by two clocks: the wall clock that `expires` names, and the time since boot.

The first of them to reach the end counts, so a wall clock that is set back lengthens nothing. What was left is kept in
table `lease_ends` of state.db: across a restart the time since boot goes on, and across a boot a lease has no more left
than it had when it was last looked at.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from typing import Final

from cloned_proxy.policy.terms.rule import Rule
from cloned_proxy.store.leases.deadline import boot_id, uptime

_KEEP_SECONDS: Final = 10.0
"""How old what is kept may become: what a lease can win at most by a boot with a clock set back."""


@dataclass(frozen=True, slots=True)
class LeaseEnd:
    """What was left of a lease when it was last looked at."""

    rule: str
    expires: float
    """The rule's `expires` in Unix seconds: another value is another lease."""
    left: float
    """Seconds; zero or less: it has ended, and no clock revives it."""
    boot: str
    uptime: float
    """Seconds since that boot."""

    def at(self, *, now: float, up: float, boot: str) -> LeaseEnd:
        """The same lease as of now."""
        passed = max(0.0, up - self.uptime) if boot and boot == self.boot else 0.0
        return LeaseEnd(self.rule, self.expires, min(self.left - passed, self.expires - now), boot, up)


class LeaseTimes:
    """The leases with an end of the policy in force. Used from the event loop alone."""

    def __init__(
        self,
        known: Iterable[LeaseEnd] = (),
        *,
        clock: Callable[[], float] = time.time,
        uptime: Callable[[], float] = uptime,
    ) -> None:
        self._clock = clock
        self._uptime = uptime
        self._known = {end.rule: end for end in known}
        self._leased: dict[str, float] = {}
        self._ended: frozenset[str] = frozenset()
        self._kept_at = -_KEEP_SECONDS
        self._changed = False

    @property
    def ended(self) -> Collection[str]:
        """Ids of the rules whose time is over; a live view."""
        return self._ended

    def follow(self, rules: Iterable[Rule]) -> None:
        """The policy that came into force."""
        self._leased = {rule.id: rule.expires for rule in rules if rule.expires is not None and not rule.denies}
        self._changed = True
        self.look()

    def look(self) -> None:
        """Reads both clocks; to be called each second."""
        if not self._leased and not self._known:
            return
        now, up, boot = self._clock(), self._uptime(), boot_id()
        ends = {}
        for rule, expires in self._leased.items():
            known = self._known.get(rule)
            if known is None or known.expires != expires:
                known = LeaseEnd(rule, expires, expires - now, boot, up)
            ends[rule] = known.at(now=now, up=up, boot=boot)
        self._known = ends
        self._ended = frozenset(rule for rule, end in ends.items() if end.left <= 0)

    def learn(self, kept: Iterable[LeaseEnd]) -> None:
        """Takes over what others know: the shorter time counts."""
        for end in kept:
            known = self._known.get(end.rule)
            if known is not None and known.expires == end.expires:
                same = end.at(now=self._clock(), up=known.uptime, boot=known.boot)
                self._known[end.rule] = replace(known, left=min(known.left, same.left))

    def due(self) -> tuple[LeaseEnd, ...] | None:
        """What is to be kept now; None when nothing is."""
        if not self._changed and (not self._known or self._uptime() - self._kept_at < _KEEP_SECONDS):
            return None
        self._changed, self._kept_at = False, self._uptime()
        return tuple(self._known.values())


def lease_ends(database: sqlite3.Connection) -> list[LeaseEnd]:
    """What is kept of all leases. Raises sqlite3.Error."""
    return [LeaseEnd(*row) for row in database.execute("SELECT rule, expires, left, boot, uptime FROM lease_ends")]


def keep_lease_ends(database: sqlite3.Connection, ends: Iterable[LeaseEnd]) -> None:
    """Replaces what is kept; inside the caller's transaction. Raises sqlite3.Error."""
    database.execute("DELETE FROM lease_ends")
    add_lease_ends(database, ends)


def add_lease_ends(database: sqlite3.Connection, ends: Iterable[LeaseEnd]) -> None:
    """Begins new leases; one that is kept already with the same end goes on. Inside the caller's transaction."""
    database.executemany(
        "INSERT INTO lease_ends VALUES (?, ?, ?, ?, ?) ON CONFLICT (rule) DO UPDATE SET "
        "expires = excluded.expires, left = excluded.left, boot = excluded.boot, uptime = excluded.uptime "
        "WHERE expires <> excluded.expires",
        [(end.rule, end.expires, end.left, end.boot, end.uptime) for end in ends],
    )


def begun(rules: Iterable[Rule], *, now: float, up: float) -> list[LeaseEnd]:
    """The leases among these rules, as they begin."""
    return [
        LeaseEnd(rule.id, rule.expires, rule.expires - now, boot_id(), up)
        for rule in rules
        if rule.expires is not None and not rule.denies
    ]
