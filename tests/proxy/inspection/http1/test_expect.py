"""`Expect: 100-continue` in opened TLS: the upstream says whether it wants the body, and the client waits for that."""

from __future__ import annotations

import asyncio

import pytest

from cloned_proxy.proxy.inspection.http1.exchange import Exchange
from tests.proxy.inspection.support import OK, World
from tests.proxy.support import until

EXPECT = "Expect: 100-continue\r\nContent-Length: 4\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Server:
    def __init__(self, world: World, *answers: bytes) -> None:
        """`answers` to the head, and OK behind the body where the last of them wants it."""
        self.answers = answers
        self.head, self.body = b"", b""
        self.asked, self.free = asyncio.Event(), asyncio.Event()
        self.ended = asyncio.Event()
        world.upstream.reply = self.serve

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.head = await reader.readuntil(b"\r\n\r\n")
        self.asked.set()
        await self.free.wait()
        writer.write(b"".join(self.answers))
        if not self.answers or self.answers[-1].startswith(b"HTTP/1.1 1"):
            self.body = await reader.readexactly(4)
            writer.write(OK)
        self.body += await reader.read()
        self.ended.set()


async def test_the_upstream_is_asked_and_its_100_goes_on(world: World) -> None:
    server = Server(world, b"HTTP/1.1 103 Early Hints\r\n\r\n", CONTINUE, CONTINUE)
    reader, writer = await world.connect()
    writer.write(world.get("/up", EXPECT, method="POST"))
    await server.asked.wait()
    assert b"\r\nexpect: 100-continue\r\n" in server.head.lower()
    with pytest.raises(TimeoutError):  # nobody says it in the upstream's place
        async with asyncio.timeout(0.05):
            await reader.readexactly(1)
    server.free.set()
    assert await reader.readuntil(b"\r\n\r\n") == CONTINUE
    writer.write(b"body")
    assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200 ")
    assert server.body == b"body"
    writer.write(world.get("/next"))  # the connection is in order
    await until(lambda: len(world.audit.requests) == 2)
    writer.transport.abort()


async def test_a_refusal_ends_the_connection_and_what_comes_in_the_place_of_the_body_is_no_request(
    world: World,
) -> None:
    server = Server(world, b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno")
    server.free.set()
    reader, writer = await world.connect()
    writer.write(world.get("/up", EXPECT, method="POST"))
    answer = await reader.readuntil(b"no")
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"\r\nconnection: close\r\n" in answer.lower()
    writer.write(world.get("/evil"))
    async with asyncio.timeout(60):
        assert await reader.read() == b""
    await server.ended.wait()
    assert server.body == b""
    assert world.audit.reasons == ["allowed"]
    await until(lambda: bool(world.audit.ends))
    assert [end.cause for end in world.audit.ends] == ["closed"]
    await until(lambda: world.in_use == 0)


@pytest.mark.parametrize("at_once", [True, False])
async def test_an_upstream_that_never_says_it_gets_the_body_of_a_client_that_waits_no_longer(
    world: World, *, at_once: bool
) -> None:
    server = Server(world)
    server.free.set()
    reader, writer = await world.connect()
    head = world.get("/up", EXPECT, method="POST")
    writer.write(head + b"body" if at_once else head)
    await server.asked.wait()
    if not at_once:
        writer.write(b"body")
    assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200 ")
    assert server.body == b"body"
    writer.transport.abort()


async def test_a_100_that_nobody_waits_for_goes_to_nobody(world: World) -> None:
    server = Server(world, CONTINUE)
    server.free.set()
    reader, writer = await world.connect()
    writer.write(world.get("/up", "Content-Length: 4\r\n", method="POST") + b"body")
    assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200 ")
    assert b"expect" not in server.head.lower()
    writer.transport.abort()


async def test_control_without_the_close_another_request_is_read_as_the_body(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Exchange, "body_withheld", property(lambda self: False))
    server = Server(world, b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno")
    server.free.set()
    reader, writer = await world.connect()
    writer.write(world.get("/up", EXPECT, method="POST"))
    await reader.readuntil(b"no")
    writer.write(world.get("/evil"))
    await until(lambda: server.body.startswith(b"GET ") or server.ended.is_set())
    writer.transport.abort()
    assert server.body.startswith(b"GET ")
