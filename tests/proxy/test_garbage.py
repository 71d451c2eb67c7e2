"""What ended leaves no cycles: a collector that had to find them would stop all tunnels for some 40 ms every second."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from tests.proxy.support import HOST, SERVER_HELLO, World, allow, connect_head, hello, upstream, world

MANY = 5


async def _ask(w: World, *parts: bytes, upto: bytes | None = None) -> bytes:
    """A client without streams, whose own cycles would be counted with ours."""
    loop = asyncio.get_running_loop()
    answer = b""
    with socket.socket() as client:
        client.setblocking(False)
        await loop.sock_connect(client, w.address)
        for part in parts:
            await loop.sock_sendall(client, part)
            answer += await loop.sock_recv(client, 65_536)
        if upto is None:
            client.shutdown(socket.SHUT_WR)
            while await loop.sock_recv(client, 65_536):
                pass
    return answer


async def tunnel_closed_by_client(w: World, port: int) -> None:
    await _ask(w, connect_head(port), hello())


async def tunnel_reset_by_client(w: World, port: int) -> None:
    await _ask(w, connect_head(port), hello(), upto=b"")


async def wrong_server_name(w: World, port: int) -> None:
    await _ask(w, connect_head(port), hello("other.example.com"))


async def denied(w: World, port: int) -> None:
    assert b" 403 " in await _ask(w, connect_head(port, "denied.example.com"))


async def not_http(w: World, port: int) -> None:
    assert b" 400 " in await _ask(w, b"nonsense\r\n\r\n")


async def plain(w: World, port: int) -> None:
    head = f"GET http://{HOST}:{port}/ HTTP/1.1\r\nHost: {HOST}:{port}\r\n\r\n".encode()
    assert b" 200 " in await _ask(w, head, head)


async def plain_denied(w: World, port: int) -> None:
    head = b"GET http://denied.example.com/ HTTP/1.1\r\nHost: denied.example.com\r\n\r\n"
    assert b" 403 " in await _ask(w, head, head)


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" if data.startswith(b"GET ") else SERVER_HELLO)
    writer.close()


@asynccontextmanager
async def _everything_kept() -> AsyncIterator[list[object]]:
    """What only the collector could free, in the end."""
    gc.collect()
    gc.disable()
    found: list[object] = []
    try:
        yield found
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found += gc.garbage
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@pytest.mark.parametrize(
    "talk",
    [tunnel_closed_by_client, tunnel_reset_by_client, wrong_server_name, denied, not_http, plain, plain_denied],
)
async def test_a_connection_that_ended_is_freed_without_the_collector(
    talk: Callable[[World, int], Awaitable[None]],
) -> None:
    async with upstream(_answer) as server, world(allow(HOST, server.port)) as w:
        await talk(w, server.port)
        await w.settled()
        async with _everything_kept() as kept:
            for _ in range(MANY):
                await talk(w, server.port)
            await w.settled()
            await asyncio.sleep(0.05)
        ours = Counter(type(thing).__qualname__ for thing in kept if type(thing).__module__.startswith("cloned_proxy"))
    assert not ours, f"{ours} of {Counter(type(thing).__qualname__ for thing in kept)}"
