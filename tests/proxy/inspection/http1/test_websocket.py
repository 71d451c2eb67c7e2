"""A WebSocket inside an opened TLS: what is sent on it arrives, whenever it is sent and however it ends."""

from __future__ import annotations

import asyncio
import os
import socket

from tests.proxy.inspection.support import World
from tests.proxy.support import until

UPGRADE = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\n"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


async def test_frames_that_come_before_the_switch_arrive(world: World) -> None:
    """More of them than wait anywhere without the client's being held back."""
    frames, full = b"\x82" * 300_000, asyncio.Event()

    async def switch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await full.wait()
        writer.write(SWITCHED)
        while data := await reader.read(65_536):
            world.upstream.received += data

    world.upstream.reply = switch
    reader, writer = await world.connect()
    writer.write(world.get("/ws", UPGRADE) + frames)
    await until(lambda: len(world.connection._buffer) > 65_536)
    full.set()
    await reader.readuntil(b"\r\n\r\n")
    await until(lambda: len(world.upstream.received) == len(frames))
    writer.transport.abort()


async def test_the_last_frames_of_a_server_that_closes_tcp_alone_arrive(world: World) -> None:
    """Without a close_notify, as many servers do: the close frame says that it is whole, the TLS need not."""
    frames = b"m" * 100_000 + b"\x88\x02\x03\xe8"

    async def leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(SWITCHED + frames)
        await until(lambda: not writer.transport.get_write_buffer_size())
        with socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno())) as tcp:
            tcp.shutdown(socket.SHUT_WR)
        await reader.read()

    world.upstream.reply = leave
    reader, writer = await world.connect()
    writer.write(world.get("/ws", UPGRADE))
    await reader.readuntil(b"\r\n\r\n")
    async with asyncio.timeout(60):
        assert await reader.read() == frames
    writer.transport.abort()
    await until(lambda: bool(world.audit.ends))
    assert [end.cause for end in world.audit.ends] == ["closed"]
