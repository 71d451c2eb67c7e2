from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from cloned_proxy.policy.terms.registry import INDEX_OF, Registry, RegistryKind
from cloned_proxy.policy.terms.rule import Rule
from cloned_proxy.store.settings.config import ProxySettings
from tests.proxy.inspection.registry.shelf import AGES, DAY, Shelf
from tests.proxy.inspection.support import World, rule


@dataclass
class Store:
    """A stand-in registry behind the inspection, and a client in front of it."""

    world: World
    shelf: Shelf

    @property
    def now(self) -> float:
        return self.world.clock.now

    def rule(self, kind: str = "npm", *allow: str, host: str = "api.test", min_age: float = 7 * DAY) -> Rule:
        found = RegistryKind(kind)
        dated = Registry(found, min_age, allow, INDEX_OF[found])
        made = rule(host, self.world.upstream.port)
        return replace(made, id=f"{made.id}-{kind}-{allow}-{min_age}", registry=dated, methods=None, paths=None)

    async def ask(
        self, path: str, extra: str = "", *, method: str = "GET", host: str = "api.test"
    ) -> tuple[int, str, bytes]:
        """Status, head and body of one exchange."""
        self.world.host = host
        answer = await self.world.talk(self.world.get(path, f"{extra}Connection: close\r\n", method=method))
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split(b" ")[1]), head.decode("latin-1"), body


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    made = World.make(tmp_path, ProxySettings(connect_timeout=30.0, response_timeout=30.0))
    upstream = await made.upstream.start(made.server_tls())
    shelf = Shelf(f"https://api.test:{made.upstream.port}")
    made.upstream.reply = shelf.reply
    front = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = front.sockets[0].getsockname()[1]
    store = Store(made, shelf)
    made.allow(store.rule())
    yield store
    await made.inspector.close()
    front.close()
    upstream.close()


@pytest.fixture
def npm(store: Store) -> Store:
    store.shelf.packument("left-pad", AGES, store.now)
    store.shelf.packument("@acme/pad", AGES, store.now)
    return store
