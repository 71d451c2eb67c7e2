"""Who needs this serving process: commands that count on it, and the processes whose runs it listens for.

A command that found no proxy starts one, and others come to use it. It ends with the last of them, whoever started it.
The kernel closes a connection however its process ends, so nobody has to say goodbye to be counted out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol


class RunCaretaker(Protocol):
    """Removes what a runner leaves behind that ended without doing so itself, and has slots ready for the next one.

    `runner.slots.caretaker` is the one there is.
    """

    def watch(self, owner: str, engine: str) -> None:
        """From now on: `owner` is the mark of a process (`runner.slots.owner`), `engine` a value of DOCKER_HOST."""

    def forget(self, owner: str) -> None:
        """Ends `watch`: the owner has removed everything itself."""

    def prepare(self, engine: str) -> None:
        """Commands are run on this engine: has slots ready there."""

    def lend(self, owner: str) -> dict[str, Any] | None:
        """A ready slot that is the owner's from now on, as `runner.slots.slots` tells of it; None: none is ready."""

    async def take_back(self, slot: str) -> bool:
        """Whether the slot with this id is no longer its borrower's; else that one removes it."""


class Holders:
    """One for each serving process, on its event loop."""

    def __init__(self, *, on_unused: Callable[[], None] | None = None, caretaker: RunCaretaker | None = None) -> None:
        self._on_unused = on_unused
        """Called when the last one has left. None: the process serves until it is told to stop."""
        self._caretaker = caretaker
        self._owners: Counter[str] = Counter()
        """The holds of each process."""
        self._unclean: set[str] = set()

    @property
    def standby(self) -> bool:
        """Whether this process serves only while somebody holds it."""
        return self._on_unused is not None

    @property
    def holding(self) -> int:
        return self._owners.total()

    def watch(self, owner: str, engine: str) -> None:
        """Has what this process makes removed when it ends, unless it holds us and leaves in order."""
        if owner and self._caretaker is not None:
            self._caretaker.watch(owner, engine)

    def enter(self, owner: str, engine: str) -> None:
        self._owners[owner] += 1
        self.watch(owner, engine)
        if owner and self._caretaker is not None and not self.standby:
            self._caretaker.prepare(engine)

    def lend(self, owner: str, engine: str) -> dict[str, Any] | None:
        """A ready slot for a run of that process."""
        self.watch(owner, engine)
        return self._caretaker.lend(owner) if owner and self._caretaker is not None else None

    async def take_back(self, slot: str) -> bool:
        return self._caretaker is not None and await self._caretaker.take_back(slot)

    def leave(self, owner: str, *, clean: bool) -> bool:
        """Whether that was the last one, and this process now stops. `clean`: it has removed what it had made."""
        self._owners[owner] -= 1
        if not clean:
            self._unclean.add(owner)
        if not self._owners[owner]:
            del self._owners[owner]
            if owner and owner not in self._unclean and self._caretaker is not None:
                self._caretaker.forget(owner)
            self._unclean.discard(owner)
        if self._owners or self._on_unused is None:
            return False
        self._on_unused()
        return True
