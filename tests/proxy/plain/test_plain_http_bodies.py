"""The bodies of plain requests: whole, chunked, smuggled, malformed, in every segmentation."""

from __future__ import annotations

import asyncio
import hashlib
import random

import pytest

from tests.proxy.plain.support import Message, answering, client, read_message, reply, request
from tests.proxy.support import HOST, SERVING, allow, upstream, world


@pytest.mark.parametrize("bytewise", [False, True])
async def test_a_chunked_request_keeps_its_body_and_loses_its_extensions(bytewise: bool) -> None:
    seen: list[Message] = []
    async with (
        upstream(answering(reply(), seen=seen)) as server,
        world(allow(HOST, server.port)) as w,
        client(w) as (reader, writer),
    ):
        data = request(server.port, method="POST", headers="Transfer-Encoding: chunked\r\n",
                       body=b"3;a=b\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 9\r\nContent-Length: 5\r\n\r\n")  # fmt: skip
        for at in range(0, len(data), 1 if bytewise else len(data)):
            writer.write(data[at : at + 1] if bytewise else data)
            await asyncio.sleep(0)
        assert (await read_message(reader)).status == 200
    assert (seen[0].body, seen[0].trailers) == (b"abcde", [b"X-Sum: 9\r\n"])


SMUGGLED: dict[str, bytes] = {
    "both framings": b"PUT {u} HTTP/1.1\r\nHost: {h}\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    "two lengths": b"POST {u} HTTP/1.1\r\nHost: {h}\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
    "a hidden coding": b"POST {u} HTTP/1.1\r\nHost: {h}\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "a coding with a tab": b"POST {u} HTTP/1.1\r\nHost: {h}\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "a bare LF": b"POST {u} HTTP/1.1\nHost: {h}\n\n",
    "another Host": b"GET {u} HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    "two Hosts": b"GET {u} HTTP/1.1\r\nHost: {h}\r\nHost: {h}\r\n\r\n",
    "origin form": b"GET / HTTP/1.1\r\nHost: {h}\r\n\r\n",
    "https in absolute form": b"GET https://{h}/ HTTP/1.1\r\nHost: {h}\r\n\r\n",
    "CONNECT behind a request": b"CONNECT {h} HTTP/1.1\r\nHost: {h}\r\n\r\n",
}


@pytest.mark.parametrize("attack", SMUGGLED.values(), ids=SMUGGLED.keys())
async def test_a_smuggled_request_behind_a_good_one_is_400_and_reaches_nobody(attack: bytes) -> None:
    seen: list[Message] = []
    async with upstream(answering(reply(), seen=seen)) as server, world(allow(HOST, server.port)) as w:
        host = f"{HOST}:{server.port}".encode()
        follow = attack.replace(b"{u}", b"http://" + host + b"/evil").replace(b"{h}", host)
        async with client(w) as (reader, writer):
            writer.write(request(server.port) + follow + request(server.port, "/after"))
            assert (await read_message(reader)).status == 200
            assert (await read_message(reader)).status == 400
            assert await reader.read() == b""
    assert [message.line for message in seen] == ["GET / HTTP/1.1"]


BROKEN_CHUNKS: dict[str, bytes] = {
    "a size that is no number": b"3\r\nabc\r\nxyz\r\n",
    "a chunk that is longer": b"3\r\nabcGET /evil HTTP/1.1\r\n",
    "a bare LF": b"3\r\nabc\r\n0\n\n",
    "0x": b"3\r\nabc\r\n0x3\r\nabc\r\n0\r\n\r\n",
    "a trailer that is no field": b"3\r\nabc\r\n0\r\nGET /evil HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("body", BROKEN_CHUNKS.values(), ids=BROKEN_CHUNKS.keys())
async def test_a_malformed_request_body_is_400_and_never_whole_upstream(body: bytes) -> None:
    received = bytearray()

    async def record(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            received.extend(data)

    async with upstream(record) as server, world(allow(HOST, server.port)) as w:
        async with client(w) as (reader, writer):
            writer.write(request(server.port, method="POST", headers="Transfer-Encoding: chunked\r\n", body=body))
            assert (await read_message(reader)).status == 400
            assert await reader.read() == b""
        await w.settled()
    assert b"0\r\n\r\n" not in received
    assert b"evil" not in received
    assert ("deny", "malformed_request") in w.audit.verdicts


async def test_a_body_that_turns_malformed_inside_a_chunk_is_never_whole_upstream() -> None:
    """The same request was granted before, so that the native plane, where there is one, has read the first part."""
    received = bytearray()
    began = asyncio.Event()

    async def record(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            received.extend(data)
            if received.endswith(b"abc\r\n0\r\n\r\n"):
                received.clear()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            if b"PUT /" in received and b"3\r\nabc\r\n" in received:
                began.set()

    async with upstream(record) as server, world(allow(HOST, server.port)) as w:
        async with client(w) as (reader, writer):
            chunked = "Transfer-Encoding: chunked\r\n"
            for _ in range(2):
                writer.write(request(server.port, method="PUT", headers=chunked, body=b"3\r\nabc\r\n0\r\n\r\n"))
                assert (await read_message(reader)).status == 200
            writer.write(request(server.port, method="PUT", headers=chunked, body=b"d\r\n3\r\nabc\r\n"))
            await asyncio.wait_for(began.wait(), 30)
            writer.write(b"0\r\n\r\n" + b"\r\nMALFORMED\r\n")  # the rest of the chunk looks like an end
            assert (await read_message(reader)).status == 400
            assert await reader.read() == b""
        await w.settled()
    assert not received.endswith(b"0\r\n\r\n")
    assert b"MALFORMED" not in received
    assert ("deny", "malformed_request") in w.audit.verdicts


@pytest.mark.parametrize("whole_heads", [True, False])
async def test_bodies_of_any_size_and_segmentation_arrive_unchanged(*, whole_heads: bool) -> None:
    rng = random.Random(4)
    sizes = (1, 2, 17, 4096, 65_536, 65_537, 262_145, 900_001)

    async def mirror(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            body = (await read_message(reader)).body
            out = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            at = 0
            while at < len(body):
                size = rng.randint(1, 90_000)
                piece = body[at : at + size]
                out += b"%x\r\n%b\r\n" % (len(piece), piece)
                at += size
            await dribble(writer, out + b"0\r\n\r\n")

    async def dribble(writer: asyncio.StreamWriter, data: bytes) -> None:
        at = 0
        while at < len(data):
            size = rng.choice((1, 7, 1400, 70_000, 300_000))
            writer.write(data[at : at + size])
            await writer.drain()
            await asyncio.sleep(0)
            at += size

    async with upstream(mirror) as server, world(allow(HOST, server.port)) as w, client(w) as (reader, writer):
        for size in sizes:
            body = rng.randbytes(size)
            data = request(server.port, method="PUT", body=body)
            if whole_heads:
                writer.write(data[:-size])
                data = data[-size:]
            sending = asyncio.create_task(dribble(writer, data))
            message = await read_message(reader, patience=60)
            await sending
            assert message.status == 200
            assert hashlib.sha256(message.body).digest() == hashlib.sha256(body).digest()
        # A head that comes in pieces is Python's, whose connections are kept beside those of the native plane.
        assert server.connections <= (2 if SERVING.native and not whole_heads else 1)
        total = sum(end.bytes_up for end in w.audit.ends)
        assert sum(sizes) < total < sum(sizes) + 2000
