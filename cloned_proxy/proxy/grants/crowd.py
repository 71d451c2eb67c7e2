"""How many clients may be connected, and how much of that one tool or one listener may take.

The rule, for people: of `max_connections` no tool may hold more than four fifths as open flows (429), and while more
than one listener is open, no party may hold more than four fifths as connections. A fifth is always left to others. Who
finds no place is not accepted, and waits until there is one.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import lru_cache
from typing import Final

from cloned_proxy.policy.model.model import NO_LIMITS, Limits
from cloned_proxy.proxy.grants.cells import CellStore

_SHARE_FIFTHS: Final = 4


def fair_share(places: int) -> int:
    """The most that one of several parties may hold of so many places."""
    return max(1, -(-places * _SHARE_FIFTHS // 5))


def fair_limits(limits: Limits, share: int | None) -> Limits:
    """A tool's limits with its fair share as the most that it may have open; None is no share."""
    if share is None or (limits.concurrent is not None and limits.concurrent <= share):
        return limits
    return _only_share(share) if limits is NO_LIMITS else replace(limits, concurrent=share)


@lru_cache(maxsize=1)
def _only_share(share: int) -> Limits:
    """Of the tools without limits of their own, which are most of them: made once."""
    return Limits(concurrent=share)


class PartyCounts:
    """Who else holds connections of a party: nobody."""

    def count(self, party: object, amount: int) -> None:
        """So many more are held here."""

    def elsewhere(self, party: object) -> int:  # noqa: ARG002  there is nobody else
        return 0


class Crowd:
    """The connections that have a place. The cap holds over all workers, the share of a party in each of them."""

    def __init__(self, places: int, store: CellStore, parties: PartyCounts | None = None) -> None:
        """`parties` is where somebody else of this process counts the connections of the same parties."""
        self._parties = parties or PartyCounts()
        self._places = places
        self._share = fair_share(places)
        self._cells = store.open("connections", 1)
        self._by_party: Counter[object] = Counter()

    def __len__(self) -> int:
        return self._by_party.total()

    def enter(self, party: object, *, contended: bool) -> bool:
        """Takes a place; False when there is none for this party. `contended`: other listeners are open as well."""
        # Counted first and looked at afterwards: two that race for the last place, other workers or threads of the
        # plane, may both give it up, and never both take it.
        self.place(party)
        if self.everybody > self._places or (contended and self.held_by(party) > self._share):
            self.leave(party)
            return False
        return True

    def place(self, party: object) -> None:
        """Takes a place, whether there is one or not: that of a connection that has one elsewhere, given back there."""
        self._cells.values[self._cells.own] += 1
        self._count(party, 1)

    def leave(self, party: object) -> None:
        """Gives a place back."""
        self._cells.values[self._cells.own] -= 1
        self._count(party, -1)

    @property
    def everybody(self) -> int:
        """How many have a place, in all processes and the native plane."""
        return sum(self._cells.values)

    @property
    def full(self) -> bool:
        return self.everybody >= self._places

    def has_its_share(self, party: object) -> bool:
        """Whether others are to have the places that are left."""
        return self.held_by(party) >= self._share

    def held_by(self, party: object) -> int:
        """How many have a place for this party, in this process and its native plane."""
        return self._by_party[party] + self._parties.elsewhere(party)

    def _count(self, party: object, amount: int) -> None:
        self._by_party[party] += amount
        self._parties.count(party, amount)
        if not self._by_party[party]:
            del self._by_party[party]
