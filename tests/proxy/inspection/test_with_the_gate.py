"""The real gate in front, on both event loops: what `serve` runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from cloned_proxy.policy.callers.caller import ANONYMOUS
from cloned_proxy.policy.callers.identity import OwnTokens
from cloned_proxy.proxy.gate.gate import Gate
from cloned_proxy.proxy.transport.listener import Listener, bind_tcp, bind_unix
from cloned_proxy.store.settings.config import ProxySettings
from tests.proxy.inspection.support import KEY, World, exchange, rule


async def scenario(directory: Path) -> None:
    world = World.make(directory, ProxySettings())
    gate = Gate(
        enforcer=world.enforcer,
        tokens=OwnTokens(KEY),
        settings=world.settings,
        metrics=world.metrics,
        inspector=world.inspector,
    )
    upstream = await world.start()
    world.allow(rule("api.test", world.upstream.port, paths=("/ok/**",)))
    tcp = bind_tcp("127.0.0.1", 0)
    port = tcp.getsockname()[1]
    await gate.open(Listener(tcp, ANONYMOUS, "tcp"))
    await gate.open(Listener(bind_unix(directory / "s"), ANONYMOUS, "unix"))
    try:
        for name in ("tcp", "unix"):
            for path, status in ((f"/secret/{name}", b" 403 "), (f"/ok/{name}", b" 200 OK")):
                streams = (
                    await asyncio.open_connection("127.0.0.1", port)
                    if name == "tcp"
                    else await asyncio.open_unix_connection(str(directory / "s"))
                )
                assert status in await through_connect(world, streams, path)
        assert "/secret" not in world.upstream.text
        assert world.upstream.text.count("GET /ok/") == 2
    finally:
        await gate.drain(0.1)
        await world.inspector.close()
        upstream.close()


async def through_connect(world: World, streams: tuple[asyncio.StreamReader, asyncio.StreamWriter], path: str) -> bytes:
    reader, writer = streams
    writer.write(f"CONNECT {world.authority} HTTP/1.1\r\nHost: {world.authority}\r\n\r\n".encode())
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    await writer.start_tls(world.client_tls(), server_hostname=world.host)
    return await exchange(reader, writer, world.get(path, "Connection: close\r\n"))


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_behind_the_gate(tmp_path: Path, run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    run(scenario(tmp_path))
