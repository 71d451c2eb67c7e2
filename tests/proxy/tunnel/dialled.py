"""A slot in which a tool knows of no proxy: it dials names, and the listener tells which."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from cloned_proxy.policy.callers.caller import CallerSource, Principal
from cloned_proxy.policy.model.model import Limits
from cloned_proxy.proxy.transport.listener import Listener, bind_tcp
from cloned_proxy.proxy.transport.name_tags import NameTags
from cloned_proxy.telemetry.events import DecisionEvent
from tests.proxy.slots.dns import NETWORK
from tests.proxy.support import (
    HOST,
    LOOPBACK,
    Upstream,
    World,
    allow,
    policy,
    upstream,
    world,
)

TOOL = Principal("demo@v1", run="cafe", source=CallerSource.LISTENER)


OTHER = "other.example.com"


@dataclass
class Slot:
    """A gate with a listener where `HOST` and `OTHER` are dialled by their tags, on the upstream's own port."""

    w: World
    server: Upstream
    tags: NameTags
    port: int

    async def dial(self, host: str = HOST) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(str(self.tags.address_of(host)), self.port)

    async def ask(self, data: bytes, host: str = HOST) -> bytes:
        """All that comes back; b"reset" for a reset."""
        reader, writer = await self.dial(host)
        writer.write(data)
        try:
            async with asyncio.timeout(60):
                return await reader.read()
        except ConnectionResetError:
            return b"reset"
        finally:
            writer.transport.abort()

    @property
    def events(self) -> list[tuple[str, int, str, str]]:
        """(host, port, verdict, reason) of every decision."""
        made = (event for event in self.w.audit.events if isinstance(event, DecisionEvent))
        return [(event.host, event.port, event.verdict, event.reason) for event in made]


@contextlib.asynccontextmanager
async def slot(*more: str, limits: Limits | None = None, **rule: object) -> AsyncIterator[Slot]:
    async with upstream() as server:
        rules = [allow(HOST, server.port, **rule), *(allow(name, server.port) for name in more)]
        async with world(current=policy(*rules, limits=limits), client_hello_timeout=60, head_timeout=60) as w:
            w.resolver.table[OTHER] = (LOOPBACK,)
            tags = NameTags(NETWORK)
            for host in (HOST, OTHER):
                sock = bind_tcp(str(tags.address_of(host)), server.port)
                await w.gate.open(Listener(sock, TOOL, "slot", tags))
            yield Slot(w, server, tags, server.port)
