"""How many clients may be connected, and how many of them may be of one party: a tool's run, or a listener.

While more than one listener is open, no party may hold more than its fair share of `max_connections`. Who finds no
place is not accepted, and waits until there is one.
"""

from __future__ import annotations

from collections import Counter

from cloned_proxy.proxy.grants.cells import CellStore
from cloned_proxy.proxy.grants.fair_share import fair_share


class PartyCounts:
    """Who else holds connections of a party: nobody."""

    def count(self, party: object, amount: int) -> None:
        """So many more are held here."""

    def elsewhere(self, party: object) -> int:  # noqa: ARG002  there is nobody else
        return 0


class ConnectionCap:
    """The connections that have a place. The cap holds over all workers, and so does the share of a party."""

    def __init__(self, places: int, store: CellStore, parties: PartyCounts | None = None) -> None:
        """`parties` is where others count the connections of the same parties: the native plane, or other workers."""
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
        """How many have a place for this party, in all workers, or in this process and its native plane."""
        return self._by_party[party] + self._parties.elsewhere(party)

    def _count(self, party: object, amount: int) -> None:
        self._by_party[party] += amount
        self._parties.count(party, amount)
        if not self._by_party[party]:
            del self._by_party[party]
