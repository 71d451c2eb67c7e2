"""A client that is not read, since more of what it sent waits than is read ahead: that it leaves is noticed."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest

from cloned_proxy.proxy.inspection.connections import tls
from cloned_proxy.proxy.inspection.http1.exchange import BACKLOG
from tests.proxy.inspection.support import OK, World
from tests.proxy.support import until

_LOOKS = 0.05
_SENT = 3 * BACKLOG
"""More than is read ahead, less than a kernel takes in: behind it the FIN arrives."""
_BOTH = 2
"""Grants that are out: of the CONNECT, and of the request."""
_RESET = struct.pack("ii", 1, 0)


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "_LOOK_SECONDS", _LOOKS)


def nothing_else_ends_it(world: World) -> None:
    """Neither is it idle for too long."""
    watching = world.connection._watching
    assert watching is not None
    watching.cancel()


async def upload(world: World) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A client whose request waits for its decision, and has sent more than is read of it meanwhile."""
    world.hold_decisions()
    reader, writer = await world.connect()
    writer.write(world.get("/", f"Content-Length: {_SENT}\r\n", method="POST") + b"x" * _SENT)
    await until(lambda: len(world.inspector._connections) == 1 and world.connection._exchange is not None)
    exchange = world.connection._exchange
    assert exchange is not None
    await until(lambda: exchange.pipe.size >= BACKLOG)
    nothing_else_ends_it(world)
    await writer.drain()
    return reader, writer


async def pipelined(world: World) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A client whose first request waits, and that has sent more behind it than is read meanwhile."""
    world.hold_decisions()
    reader, writer = await world.connect()
    request = world.get("/", f"X-Padding: {'x' * 1000}\r\n")
    writer.write(request * (_SENT // len(request)))
    await until(lambda: len(world.inspector._connections) == 1 and len(world.connection._buffer) > BACKLOG)
    nothing_else_ends_it(world)
    await writer.drain()
    return reader, writer


@pytest.mark.parametrize("hard", [True, False], ids=["reset", "FIN"])
@pytest.mark.parametrize("busy", [upload, pipelined])
async def test_that_it_leaves_ends_its_request(world: World, busy: object, *, hard: bool) -> None:
    assert callable(busy)
    _, writer = await busy(world)
    assert world.in_use == _BOTH
    if hard:
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
    await until(lambda: world.in_use == 0)
    world.audit.free.set()
    assert not world.upstream.connections


@pytest.mark.parametrize("busy", [upload, pipelined])
async def test_control_without_the_look_nobody_notices(
    world: World, busy: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(busy)
    monkeypatch.setattr(tls, "has_left", lambda *_, **__: False)
    _, writer = await busy(world)
    writer.transport.abort()
    await asyncio.sleep(10 * _LOOKS)
    assert world.in_use == _BOTH
    monkeypatch.undo()
    await until(lambda: world.in_use == 0)


async def test_who_stays_is_served_however_long_that_takes(world: World) -> None:
    reader, writer = await upload(world)
    await asyncio.sleep(5 * _LOOKS)
    world.audit.free.set()
    async with asyncio.timeout(60):
        assert (await reader.readuntil(b"\r\n\r\n")) + await reader.readexactly(2) == OK
    await until(lambda: world.upstream.received.endswith(b"x" * _SENT))
    writer.transport.abort()
