"""A response that is complete while its request is still on its way: what goes on is on record until it ends."""

from __future__ import annotations

import asyncio

import pytest

from tests.proxy.inspection.support import OK, World, rule
from tests.proxy.support import until

SIZE = 3_000_000
PART = b"x" * 1_000_000
CHUNKED = b"HTTP/1.1 413 Content Too Large\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"


async def begin(world: World, response: bytes = OK) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """The client has the response, and all of its upload before it."""

    async def answers_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(response)
        while data := await reader.read(65_536):
            world.upstream.received += data

    world.upstream.reply = answers_at_once
    reader, writer = await world.connect()
    writer.write(world.get("/", f"Content-Length: {SIZE}\r\n", method="POST"))
    async with asyncio.timeout(5):
        if response:
            await reader.readuntil(response[-7:])
    await asyncio.sleep(0.1)
    return reader, writer


async def test_the_rest_of_the_upload_holds_its_place_and_is_counted(world: World) -> None:
    reader, writer = await begin(world)
    assert world.in_use == 2
    assert world.audit.ends == []
    writer.write(PART)
    await until(lambda: len(world.upstream.received) == len(PART))
    assert world.in_use == 2
    writer.write(PART * 2)
    await until(lambda: world.in_use == 1 and len(world.upstream.received) == SIZE)
    assert [(end.cause, end.bytes_up, end.bytes_down) for end in world.audit.ends] == [("closed", SIZE, 2)]
    writer.write(world.get("/again"))
    async with asyncio.timeout(5):
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 ")
    writer.transport.abort()


async def test_what_comes_behind_it_is_not_collected(world: World) -> None:
    async def pours(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        for _ in range(100):
            await asyncio.sleep(0.01)
            writer.write(OK)
            await writer.drain()

    world.upstream.reply = pours
    reader, writer = await world.connect()
    writer.write(world.get("/", f"Content-Length: {SIZE}\r\n", method="POST"))
    async with asyncio.timeout(5):
        assert await reader.read() == OK
    writer.transport.abort()
    await until(lambda: world.in_use == 0)
    assert [end.cause for end in world.audit.ends] == ["closed"]


async def test_its_revocation_is_on_record_as_one(world: World) -> None:
    reader, writer = await begin(world)
    writer.write(PART)
    await until(lambda: len(world.upstream.received) == len(PART))
    world.allow(rule("other.test", world.upstream.port))
    world.inspector.sweep()
    await until(lambda: world.in_use == 0)
    assert [(end.cause, end.bytes_up) for end in world.audit.ends] == [("revoked:host_not_allowed", len(PART))]
    assert len(world.audit.requests) == 1
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.transport.abort()


@pytest.mark.parametrize("early", [False, True])
async def test_a_client_that_gives_its_upload_up_has_sent_nothing_malformed(world: World, *, early: bool) -> None:
    _, writer = await begin(world, OK if early else b"")
    writer.write(PART)
    await until(lambda: len(world.upstream.received) == len(PART))
    writer.transport.abort()
    await until(lambda: world.in_use == 0)
    assert [(end.cause, end.bytes_up) for end in world.audit.ends] == [("client_reset", len(PART))]
    assert world.audit.reasons == ["allowed"]


async def test_a_chunked_one_reaches_the_client_to_its_last_chunk(world: World) -> None:
    reader, writer = await begin(world, CHUNKED)
    writer.write(PART * 3)
    await until(lambda: world.in_use == 1)
    writer.write(world.get("/again"))
    async with asyncio.timeout(5):
        assert await reader.readexactly(9) == b"HTTP/1.1 "  # and no second last chunk
    writer.transport.abort()


@pytest.mark.parametrize(
    "response",
    [OK, CHUNKED, b"HTTP/1.1 413 Content Too Large\r\n\r\nok"],
    ids=["length", "chunked", "until-close"],
)
async def test_an_upstream_that_answers_and_closes_leaves_the_response_whole(world: World, response: bytes) -> None:
    async def refuses(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(response)
        await writer.drain()
        writer.close()
        await asyncio.sleep(0.3)

    world.upstream.reply = refuses
    reader, writer = await world.connect()
    writer.write(world.get("/", f"Content-Length: {SIZE}\r\n", method="POST"))
    async with asyncio.timeout(5):
        assert (await reader.read()).endswith(b"\r\n\r\nok" if response is OK else b"\r\n2\r\nok\r\n0\r\n\r\n")
    writer.transport.abort()
    await until(lambda: world.in_use == 0)
    assert [end.cause for end in world.audit.ends] == ["closed"]
