"""The guards of a replica among others: what it does when it reaches the store again, and when it is stopped."""

from __future__ import annotations

from typing import Any, Final

from cloned_proxy.proxy.gate.gate import Gate
from cloned_proxy.proxy.serving import server
from tests.net.guards import Patch, replace_part


def _deaf_at_connect() -> None:
    """It hears news, and reads when its poll is due; what was published while it was cut off it does not ask for."""

    from cloned_proxy.fleet.signed_policy.store_source import StoreSource  # noqa: PLC0415  no other build needs it

    async def at_connect(_self: StoreSource) -> None:
        return

    replace_part(StoreSource, "_at_connect", at_connect)


def _cut_at_once() -> None:
    original = Gate.drain

    async def drain(self: Gate, _seconds: float) -> None:
        await original(self, 0)

    replace_part(Gate, "drain", drain)


def _closed_at_once() -> None:
    async def drain_late(gate: Gate, settings: Any) -> None:
        await gate.drain(settings.drain_seconds)

    replace_part(server, "_drain_late", drain_late)


READING_AT_CONNECT: Final = "reading at each connect"
THE_DRAIN: Final = "the drain of a stop"
THE_DELAY: Final = "the delay of a stop"
REPLICA_GUARDS: Final[dict[str, Patch]] = {
    READING_AT_CONNECT: _deaf_at_connect,
    THE_DRAIN: _cut_at_once,
    THE_DELAY: _closed_at_once,
}
