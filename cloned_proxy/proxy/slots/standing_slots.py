"""Slots that stand as long as the proxy does: a unix socket for each tool, for whoever is given that socket alone.

What a runner makes for one run, Compose makes once: a holder without a network forwards 127.0.0.1:8081 to a socket in
a volume that only it and the proxy mount. The socket is the identity, so nobody needs the engine's socket for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloned_proxy.policy.callers.caller import CallerSource, Principal
from cloned_proxy.proxy.gate.gate import Gate
from cloned_proxy.proxy.transport.listener import Listener, bind_unix

RUN: Final = "standing"
"""In place of a run's id: such a slot has no runs, only connections."""


@dataclass(frozen=True, slots=True)
class StandingSlot:
    tool: str
    path: Path
    """Path of the socket (0600). Its directory must exist, and be open to this user and the holder's alone."""


async def open_standing_slots(parts: AsyncExitStack, gate: Gate, slots: Iterable[StandingSlot]) -> None:
    """Accepts on each of them until `parts` are taken apart. Raises BindError."""
    for slot in slots:
        sock = await asyncio.to_thread(bind_unix, slot.path)
        principal = Principal(tool=slot.tool, run=RUN, source=CallerSource.LISTENER)
        listener = Listener(sock, principal, f"slot {slot.tool}")
        await gate.open(listener)
        parts.callback(slot.path.unlink, missing_ok=True)
        parts.callback(gate.close, listener)
