"""Ready slots that a lasting `serve` lends to the commands of its workspace: `exec` finds one and need not make it.

The caretaker makes and keeps them, in its own process. A slot that is lent carries its borrower's mark in its name
(a label cannot be changed), so that whoever cleans up sees whose it is now. It comes back when its tool ended by
itself; else it goes, with its borrower at the latest.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.slots.networks import SEALED
from cloned_proxy.runner.slots.owner import owner_id
from cloned_proxy.runner.slots.pools import Pools
from cloned_proxy.runner.slots.slots import Slot, SlotPool, slot_name
from cloned_proxy.runner.values.errors import SandboxError
from cloned_proxy.share import share_path

_READY: Final = 2
_MOST: Final = 4
"""Most slots that are kept when they come back."""
_REFILL_SECONDS: Final = 5.0
"""While one is left, what was lent may come back before it is replaced: most commands are short."""
_IDLE_SECONDS: Final = 900.0
"""Seconds without a command after which the ready slots are removed; the next command asks for new ones."""


class SlotShelf:
    """Slots that wait for a command; not thread-safe. What goes wrong costs a command some time, and nothing else."""

    def __init__(self, workspace: Path, tell: Callable[[dict[str, Any]], None]) -> None:
        self._workspace = workspace
        self._tell = tell
        """Says which slot is ready, and which one is not any more."""
        self._engine: Engine | None = None
        self._pool: SlotPool | None = None
        self._ready: dict[str, Slot] = {}
        self._lent: dict[str, tuple[Slot, str]] = {}
        self._wanted_until = 0.0
        self._lent_at = 0.0
        self._making: threading.Thread | None = None
        self._made: Slot | None = None
        self.wake: Final = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        """Readable when a slot that was being made is there, or will not be."""

    @property
    def lent(self) -> int:
        return len(self._lent)

    def seconds(self) -> float | None:
        """Until `work` has something to do; None: not before somebody wants something."""
        if self._pool is None or self._making is not None or not self._wanted_until:
            return None
        return max(0.0, min(self._refill_at(), self._wanted_until) - time.monotonic())

    def want(self) -> None:
        """Somebody runs commands here, on the engine that DOCKER_HOST names."""
        self._wanted_until = time.monotonic() + _IDLE_SECONDS
        if self._pool is not None:
            return
        try:
            self._engine = Engine.connect()
            seccomp = share_path("sandbox", "seccomp.json").read_text(encoding="utf-8")
            pools = Pools(
                self._engine,
                workspace=self._workspace,
                owner=owner_id(),
                seccomp=seccomp,
                spare=0,
                enter=None,
                lender=None,
            )
            self._pool = pools.of(SEALED)
        except SandboxError:
            self._wanted_until = 0.0

    def work(self) -> None:
        """Has a slot made if one is missing, and removes all when nobody has wanted any for long."""
        self._collect()
        now, pool = time.monotonic(), self._pool
        if pool is None or self._making is not None or not self._wanted_until:
            return
        if now >= self._wanted_until:
            self.close()
        elif now >= self._refill_at():
            # Beside the loop: whoever gives a slot back waits for the answer.
            self._making = threading.Thread(target=self._make, args=(pool,), name="ready-slot")
            self._making.start()

    def _make(self, pool: SlotPool) -> None:
        try:
            self._made = pool.make()
        except SandboxError:
            self._made = None
        finally:
            os.eventfd_write(self.wake, 1)

    def _collect(self) -> None:
        """What was made, if it is there."""
        if self._making is None or self._making.is_alive():
            return
        self._making = None
        slot, self._made = self._made, None
        if slot is not None and slot.namespace is not None and self._wanted_until:
            self._put(slot)
            return
        if slot is not None and self._pool is not None:
            # The slot's sockets come from its holder, over a stream of this process's own; or nobody wants it any more.
            self._pool.remove(slot)
        self._wanted_until = 0.0  # until the next command, which says what is wrong

    def lend(self, slot_id: str, owner: str) -> None:
        slot = self._ready.pop(slot_id, None)
        if slot is None or self._engine is None:
            return
        self._lent[slot_id] = (slot, owner)
        self._lent_at = time.monotonic()
        self._rename(slot, slot_name(slot_id, owner))

    def take_back(self, slot_id: str) -> None:
        slot, _ = self._lent.pop(slot_id, (None, ""))
        if slot is None or self._pool is None:
            return
        if self._pool.alive(slot) and len(self._ready) < _MOST and self._rename(slot, slot_name(slot_id)):
            self._put(slot)
        else:
            self._pool.remove(slot)
            self._tell({"gone": slot_id})

    def take_from(self, owner: str) -> None:
        """The borrower has ended: what it has not given back goes."""
        for slot_id, (slot, borrower) in tuple(self._lent.items()):
            if borrower == owner and self._pool is not None:
                del self._lent[slot_id]
                self._pool.remove(slot)

    def close(self) -> None:
        """Removes what is ready, and makes no more."""
        self._wanted_until = 0.0
        if self._making is not None:
            self._making.join()
            self._collect()
        for slot_id, slot in tuple(self._ready.items()):
            self._tell({"gone": slot_id})
            del self._ready[slot_id]
            if self._pool is not None:
                self._pool.remove(slot)
        if self._pool is not None and not self._lent:
            self._pool.close()

    def _refill_at(self) -> float:
        if not self._ready:
            return 0.0
        return self._lent_at + _REFILL_SECONDS if len(self._ready) < _READY else math.inf

    def _put(self, slot: Slot) -> None:
        if slot.namespace is not None:
            self._ready[slot.id] = slot
            self._tell({"slot": {"id": slot.id, "holder": slot.holder, "pid": slot.namespace.pid}})

    def _rename(self, slot: Slot, name: str) -> bool:
        try:
            if self._engine is not None:
                self._engine.rename(slot.holder, name)
        except SandboxError:
            return False
        return True
