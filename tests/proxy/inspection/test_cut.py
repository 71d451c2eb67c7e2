"""The gate cuts an inspected connection by cancelling it: nothing of it may go on afterwards."""

from __future__ import annotations

import asyncio
import socket

import pytest

from cloned_proxy.proxy.grants.grant import Grant
from cloned_proxy.proxy.upstream.ways import Ways
from tests.proxy.inspection.support import World
from tests.proxy.support import until


async def test_a_request_that_is_cut_during_its_dial_never_reaches_the_upstream(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    dialling, connected = asyncio.Event(), asyncio.Event()

    at_once = Ways.connect

    async def slow(ways: Ways, grant: Grant) -> socket.socket:
        dialling.set()
        await connected.wait()
        return await at_once(ways, grant)

    monkeypatch.setattr(Ways, "connect", slow)
    before = asyncio.all_tasks()
    serving: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.append(asyncio.create_task(world.serve(reader, writer)))

    front = await asyncio.start_server(serve, "127.0.0.1", 0)
    _, client = await world.connect(front.sockets[0].getsockname()[1])
    client.write(world.get("/secret"))
    async with asyncio.timeout(5):
        await dialling.wait()
    serving[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving[0]
    connected.set()
    await asyncio.sleep(0.2)
    client.transport.abort()
    front.close()
    assert world.upstream.received == b""
    assert world.upstream.connections == 0
    assert [task for task in asyncio.all_tasks() - before if not task.done()] == []


@pytest.mark.parametrize("upload", [False, True])
@pytest.mark.parametrize("how", ["cut", "client gone"])
async def test_a_grant_that_comes_after_the_end_is_given_back(world: World, how: str, *, upload: bool) -> None:
    world.hold_decisions()
    serving: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.append(asyncio.create_task(world.serve(reader, writer)))

    front = await asyncio.start_server(serve, "127.0.0.1", 0)
    _, client = await world.connect(front.sockets[0].getsockname()[1])
    client.write(world.get("/secret", "Content-Length: 9\r\n" * upload, method="POST" if upload else "GET"))
    async with asyncio.timeout(5):
        await world.audit.asked.wait()
    client.transport.abort()
    if how == "cut":
        serving[0].cancel()
    await asyncio.sleep(0.1)
    world.audit.free.set()
    async with asyncio.timeout(5):
        await asyncio.gather(*serving, return_exceptions=True)
    await asyncio.sleep(0.2)
    front.close()
    assert world.upstream.connections == 0
    await until(lambda: world.in_use == 0)
