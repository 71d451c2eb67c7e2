"""What the workers tell each other about places: who listens, who holds how many, who waits in vain.

Only one worker has the listeners of sandboxes; the connections of the host's listener are with all of them. So a share
counts over all, and who waits in one worker gets room from the clients of another.
"""

from __future__ import annotations

from typing import Final

from cloned_proxy.proxy.grants.cells import Cells, CellStore
from cloned_proxy.proxy.grants.connection_cap import PartyCounts
from cloned_proxy.proxy.transport.listener import Listener


class Siblings(PartyCounts):
    """What one worker knows of the others, and tells them; a process that serves alone knows of itself only.

    A worker tells everything in the first cells of its rows, which the supervisor clears when the worker dies.
    """

    def __init__(self, store: CellStore) -> None:
        """`store` is that of `ConnectionCap`. Raises OSError."""
        self._store: Final = store
        self._listeners: Final = store.open("listeners", 1)
        self._waiting: Final = store.open("waiting", 1)
        self._parties: Final[dict[object, Cells]] = {}

    def listen(self, listeners: int) -> None:
        """So many are open here."""
        self._listeners.values[self._listeners.own] = listeners

    @property
    def contended(self) -> bool:
        """Whether several listeners share the places. The one that every worker has is one."""
        return max(self._listeners.values) > 1

    def wait(self, *, waiting: bool) -> None:
        """Whether somebody waits here for a place that any client may make."""
        self._waiting.values[self._waiting.own] = waiting

    @property
    def somebody_waits(self) -> bool:
        """In any worker."""
        return any(self._waiting.values)

    def count(self, party: object, amount: int) -> None:
        if isinstance(party, Listener):  # a run, which is a party too, has all its listeners in one worker
            cells = self._cells_of(party)
            cells.values[cells.own] += amount

    def elsewhere(self, party: object) -> int:
        if not isinstance(party, Listener):
            return 0
        cells = self._cells_of(party)
        return sum(cells.values) - cells.values[cells.own]

    def _cells_of(self, party: Listener) -> Cells:
        cells = self._parties.get(party)
        if cells is None:
            cells = self._parties[party] = self._store.open(f"connections of {party.name}", 1)
        return cells
