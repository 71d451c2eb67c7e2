from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cloned_proxy.store.settings.config import ProxySettings
from tests.proxy.inspection.http2.peers import Client, Upstream2
from tests.proxy.inspection.support import World, rule


@pytest.fixture
async def h2(tmp_path: Path) -> AsyncIterator[World]:
    """A world whose upstream speaks HTTP/2."""
    settings = ProxySettings(
        head_timeout=60.0, keep_alive_timeout=60.0, connect_timeout=60.0, response_timeout=60.0, idle_timeout=120.0
    )
    made = World.make(tmp_path, settings)
    tls = made.server_tls()
    tls.set_alpn_protocols(["h2"])
    server = await made.upstream.start(tls)
    made.allow(rule("api.test", made.upstream.port))
    front = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = front.sockets[0].getsockname()[1]
    yield made
    await made.inspector.close()
    front.close()
    server.close()


@pytest.fixture
def upstream(h2: World) -> Upstream2:
    """Of the same world."""
    made = Upstream2()
    h2.upstream.reply = made.reply
    return made


@pytest.fixture
async def client(h2: World, upstream: Upstream2) -> AsyncIterator[Client]:
    made = await Client.connect(h2)
    yield made
    await made.close()


@pytest.fixture
async def h1(tmp_path: Path) -> AsyncIterator[World]:
    """A world whose upstream speaks HTTP/1.1."""
    directory = tmp_path / "h1"
    directory.mkdir()
    made = World.make(directory, ProxySettings())
    server = await made.start()
    front = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = front.sockets[0].getsockname()[1]
    yield made
    await made.inspector.close()
    front.close()
    server.close()
