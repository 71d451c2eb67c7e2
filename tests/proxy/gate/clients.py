"""Clients that come to a gate whose places are few, and what can be seen of who has one."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager

from cloned_proxy.proxy.transport.listener import Listener
from tests.proxy.plain.support import request
from tests.proxy.support import World, hello, until

REFUSED = b"GET http://denied.example/ HTTP/1.1\r\nHost: denied.example\r\nConnection: close\r\n\r\n"
HELLO = hello()
BEGUN = b"GET http://denied.example/ HTTP/1.1\r\n"


def connected(w: World) -> int:
    """How many have a place."""
    return sum(w.gate._cap._cells.values)


def somebody_waits(w: World, listener: Listener | None = None) -> bool:
    return w.gate._room.is_wanted(listener or w.listener, contended=w.gate._contended)


async def client(stack: ExitStack, family: socket.AddressFamily, address: object) -> socket.socket:
    """One that is connected as far as the kernel is concerned."""
    sock = stack.enter_context(socket.socket(family))
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, address)  # type: ignore[arg-type]  # a path, for the other
    return sock


async def answer(sock: socket.socket) -> bytes:
    """The begin of what comes back."""
    async with asyncio.timeout(60):
        return await asyncio.get_running_loop().sock_recv(sock, 12)


async def swept_until(w: World, condition: Callable[[], bool]) -> None:
    """As `until`, with the sweep that comes once a second."""

    def swept() -> bool:
        w.gate.sweep()
        return condition()

    await until(swept)


@asynccontextmanager
async def tunnels(w: World, port: int, count: int) -> AsyncIterator[list[asyncio.StreamWriter]]:
    async with AsyncExitStack() as stack:
        writers = []
        for _ in range(count):
            reader, writer = await w.tunnel(port, first=HELLO)
            stack.callback(writer.transport.abort)
            await reader.readexactly(len(HELLO))
            writers.append(writer)
        yield writers


async def slow_client(stack: ExitStack, w: World, port: int) -> socket.socket:
    """A client that has asked for the last time, and reads nothing of what is on its way."""
    loop = asyncio.get_running_loop()
    sock = stack.enter_context(socket.socket())
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await loop.sock_connect(sock, w.address)
    await loop.sock_sendall(sock, request(port, headers="Connection: close\r\n"))
    return sock
