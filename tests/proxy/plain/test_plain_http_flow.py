"""Plain HTTP that does not come in one piece: back-pressure, Expect, answers before the request is whole."""

from __future__ import annotations

import asyncio
import hashlib
from typing import cast

import pytest

from tests.proxy.plain.support import answering, client, read_message, reply, request
from tests.proxy.support import HOST, allow, upstream, world


def stop_reading(writer: asyncio.StreamWriter) -> None:
    cast(asyncio.Transport, writer.transport).pause_reading()


@pytest.mark.parametrize("direction", ["down", "up"])
async def test_a_slow_reader_holds_a_fast_writer(direction: str) -> None:
    total, moved = 64 * 1_048_576, 0

    async def source(writer: asyncio.StreamWriter) -> None:
        nonlocal moved
        piece = b"z" * 65_536
        while moved < total:
            writer.write(piece)
            await writer.drain()
            moved += len(piece)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if direction == "down":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
            await source(writer)
        await asyncio.sleep(3600)

    async with upstream(serve) as server, world(allow(HOST, server.port)) as w, client(w) as (_, writer):
        task = None
        if direction == "up":
            writer.write(request(server.port, method="PUT", headers=f"Content-Length: {total}\r\n"))
            task = asyncio.create_task(source(writer))
        else:
            writer.write(request(server.port))
            stop_reading(writer)
        before = -1
        while before != moved:
            before = moved
            await asyncio.sleep(0.3)
        # What is on the way is in the buffers of the kernel and in a few of ours.
        assert 0 < moved < total / 2
        if task is not None:
            task.cancel()


async def test_a_client_that_pipelines_and_does_not_read_is_not_served_further() -> None:
    async with (
        upstream(answering(reply(b"r" * 100_000))) as server,
        world(allow(HOST, server.port)) as w,
        client(w) as (_, writer),
    ):
        stop_reading(writer)
        writer.write(request(server.port) * 2000)
        served = -1
        while served != len(w.audit.verdicts):
            served = len(w.audit.verdicts)
            await asyncio.sleep(0.3)
        assert 0 < served < 500


# Early and interim answers.


async def test_expect_100_continue_is_the_upstreams_to_answer() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"expect: 100-continue" in head
        writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
        writer.write(reply(await reader.readexactly(4)))

    async with upstream(serve) as server, world(allow(HOST, server.port)) as w, client(w) as (reader, writer):
        data = request(server.port, method="PUT", headers="Expect: 100-continue\r\n", body=b"body")
        writer.write(data[:-4])
        assert (await read_message(reader, body=False)).one("link") == "</a>"
        assert (await read_message(reader, body=False)).status == 100
        writer.write(data[-4:])
        assert (await read_message(reader)).body == b"body"


async def test_a_final_answer_instead_of_100_ends_the_connection() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply(b"no", "417 Expectation Failed"))
        assert await reader.read() == b""

    async with upstream(serve) as server, world(allow(HOST, server.port)) as w, client(w) as (reader, writer):
        writer.write(request(server.port, method="PUT", headers="Expect: 100-continue\r\n", body=b"body")[:-4])
        message = await read_message(reader)
        assert (message.status, message.one("connection")) == (417, "close")
        # Whether what comes now is the body or the next request, nobody can tell.
        writer.write(request(server.port))
        assert await reader.read() == b""
        assert len(w.audit.verdicts) == 1


async def test_an_early_answer_does_not_stop_the_request() -> None:
    digest = hashlib.sha256()
    body = b"0123456789" * 30_000

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        digest.update(await reader.readexactly(10))
        writer.write(reply(b"early"))
        await writer.drain()
        digest.update(await reader.readexactly(len(body) - 10))
        await read_message(reader)
        writer.write(reply(b"next"))

    async with upstream(serve) as server, world(allow(HOST, server.port)) as w, client(w) as (reader, writer):
        data = request(server.port, method="PUT", body=body)
        writer.write(data[: -len(body) + 10])
        assert (await read_message(reader)).body == b"early"
        writer.write(data[-len(body) + 10 :] + request(server.port))
        assert (await read_message(reader)).body == b"next"
        assert digest.digest() == hashlib.sha256(body).digest()


async def test_an_early_answer_of_an_upstream_that_leaves_arrives_whole() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply(b"too large", "413 Content Too Large", "Connection: close\r\n"))
        await writer.drain()
        writer.close()

    async with upstream(serve) as server, world(allow(HOST, server.port)) as w, client(w) as (reader, writer):
        writer.write(request(server.port, method="PUT", headers="Content-Length: 9999999\r\n") + b"x" * 1000)
        assert (await read_message(reader)).body == b"too large"
        assert await reader.read() == b""
