"""Connections by party (`proxy/grants/connection_cap.py`), counted in cells that the plane counts in, too."""

from __future__ import annotations

from typing import Final

from cloned_proxy.proxy.grants.connection_cap import PartyCounts
from cloned_proxy.proxy.plane.cells import PlaneCells

PARTIES: Final = 1024
"""How many listeners the plane can tell apart; Python serves any further ones."""


class Parties(PartyCounts):
    """Connections by party, in both rows of the cells."""

    def __init__(self, cells: PlaneCells) -> None:
        self._values = cells.open("parties", PARTIES).values
        self._free = list(range(PARTIES - 1, -1, -1))
        self._places: dict[object, tuple[int, int]] = {}
        """Maps each party with open listeners to its column and the number of those listeners."""

    @property
    def full(self) -> bool:
        return not self._free

    def opened(self, party: object) -> int:
        place, listeners = self._places.get(party) or (self._free.pop(), 0)
        self._places[party] = place, listeners + 1
        return place

    def closed(self, party: object) -> None:
        place, listeners = self._places.pop(party)
        if listeners > 1:
            self._places[party] = place, listeners - 1
        else:
            self._values[place] = 0
            self._free.append(place)

    def column(self, party: object) -> int | None:
        """Where the connections of a party are counted; None of one without an open listener."""
        return self._places[party][0] if party in self._places else None

    def count(self, party: object, amount: int) -> None:
        if party in self._places:
            place = self._places[party][0]
            self._values[place] = max(0, self._values[place] + amount)

    def elsewhere(self, party: object) -> int:
        return self._values[PARTIES + self._places[party][0]] if party in self._places else 0
