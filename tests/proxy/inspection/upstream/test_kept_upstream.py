"""Upstream connections of an opened tunnel that are used again: nothing is sent twice that must not be, and none fails.

Time is what the connection says it is: nobody waits for it here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from cloned_proxy.policy.paths.path import parse_path_pattern
from cloned_proxy.proxy.inspection.requests import stream
from cloned_proxy.proxy.inspection.upstream.upstream_h1 import UpstreamH1
from tests.proxy.inspection.support import OK, World, rule
from tests.proxy.support import until

type Head = Callable[[str], bytes]


@pytest.fixture
def world(world: World) -> World:
    every = rule("api.test", world.upstream.port)
    object.__setattr__(every, "methods", None)
    assert every.paths == (parse_path_pattern("/**"),)
    world.allow(every)
    return world


def idle(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setattr(UpstreamH1, "idle_for", lambda self: seconds)


class Server:
    """Answers the first request of its first connection, and breaks off at the next one."""

    def __init__(self, world: World, *, broken: int = 1) -> None:
        """`broken` connections break off, the others answer."""
        self.world, self.broken = world, broken
        self.requests: list[str] = []
        """What was read of each, head and body."""
        world.upstream.reply = self.serve

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = self.world.upstream.connections
        for answered in range(1000):
            head = await reader.readuntil(b"\r\n\r\n")
            if number <= self.broken and (answered or number > 1):
                self.requests.append(head.decode())
                return
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or b"0")
            self.requests.append((head + await reader.readexactly(length)).decode())
            writer.write(OK)


async def two(world: World, second: bytes) -> list[bytes]:
    """The status lines of a GET and of what comes behind it on the same connection."""
    reader, writer = await world.connect()
    writer.write(world.get("/first"))
    head = await reader.readuntil(b"ok")
    writer.write(second)
    async with asyncio.timeout(60):
        again = await reader.readuntil(b"\r\n")
    writer.transport.abort()
    return [head.partition(b"\r\n")[0], again.rstrip()]


def sent(world: World, method: str, size: int = 0) -> bytes:
    return world.get("/second", f"Content-Length: {size}\r\n" if size else "", method=method) + b"x" * size


@pytest.mark.parametrize(
    ("method", "seconds", "connections"),
    [("POST", 0.1, 1), ("POST", 0.6, 2), ("PATCH", 0.6, 2), ("GET", 0.6, 1), ("PUT", 14.0, 1), ("GET", 16.0, 2)],
)
async def test_what_may_not_be_sent_twice_meets_no_connection_that_may_be_closing(
    world: World, monkeypatch: pytest.MonkeyPatch, method: str, seconds: float, connections: int
) -> None:
    idle(monkeypatch, seconds)
    server = Server(world, broken=0)
    assert await two(world, sent(world, method, 5 if method != "GET" else 0)) == [b"HTTP/1.1 200 OK"] * 2
    assert world.upstream.connections == connections
    assert server.requests[-1].endswith("xxxxx" if method != "GET" else "\r\n\r\n")


@pytest.mark.parametrize(("method", "size"), [("GET", 0), ("DELETE", 0), ("PUT", 5), ("PUT", 60_000), ("DELETE", 9)])
async def test_what_may_be_is_sent_again_where_the_connection_had_been_closed(
    world: World, monkeypatch: pytest.MonkeyPatch, method: str, size: int
) -> None:
    idle(monkeypatch, 5.0)
    server = Server(world)
    assert await two(world, sent(world, method, size)) == [b"HTTP/1.1 200 OK"] * 2
    assert world.upstream.connections == 2
    assert server.requests[-1].endswith("\r\n\r\n" + "x" * size)
    assert [request.split(" ")[1] for request in server.requests] == ["/first", "/second", "/second"]
    await until(lambda: world.in_use == 0)
    assert [end.cause for end in world.audit.ends] in (["closed", "closed"], ["closed", "client_reset"])


@pytest.mark.parametrize(("method", "size"), [("POST", 5), ("PATCH", 5), ("PUT", 70_000)])
async def test_what_may_not_be_is_not(world: World, monkeypatch: pytest.MonkeyPatch, method: str, size: int) -> None:
    idle(monkeypatch, 0.1)
    server = Server(world)
    assert await two(world, sent(world, method, size)) == [b"HTTP/1.1 200 OK", b"HTTP/1.1 502 Bad Gateway"]
    assert [request.split(" ")[1] for request in server.requests] == ["/first", "/second"]


async def test_twice_is_enough(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    idle(monkeypatch, 5.0)
    server = Server(world, broken=9)
    assert await two(world, sent(world, "GET")) == [b"HTTP/1.1 200 OK", b"HTTP/1.1 502 Bad Gateway"]
    assert world.upstream.connections == 2
    assert len(server.requests) == 3


async def test_a_response_that_had_begun_is_not_asked_for_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    idle(monkeypatch, 5.0)

    async def breaks_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200")
        await writer.drain()

    world.upstream.reply = breaks_off
    assert await two(world, sent(world, "GET")) == [b"HTTP/1.1 200 OK", b"HTTP/1.1 502 Bad Gateway"]
    assert world.upstream.connections == 1


async def test_a_client_that_leaves_in_a_quiet_stream_is_noticed(world: World) -> None:
    left = asyncio.Event()

    async def quiet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
        await reader.read()
        left.set()

    world.upstream.reply = quiet
    reader, writer = await world.connect()
    writer.write(world.get("/stream"))
    await reader.readuntil(b"ok\r\n")
    writer.close()
    async with asyncio.timeout(60):
        await left.wait()
    await until(lambda: world.in_use == 0)
    assert [end.cause for end in world.audit.ends] == ["client_reset"]


async def test_control_without_the_rule_a_post_is_lost(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    idle(monkeypatch, 5.0)
    monkeypatch.setattr(stream, "longest_idle", lambda head: 60.0)
    Server(world)
    assert await two(world, sent(world, "POST", 5)) == [b"HTTP/1.1 200 OK", b"HTTP/1.1 502 Bad Gateway"]
