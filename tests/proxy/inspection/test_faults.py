"""Either side breaks or dawdles in the middle of an inspected response."""

from __future__ import annotations

import asyncio
import hashlib
import random
import socket
import ssl
import struct

import pytest

from tests.proxy.inspection.support import World
from tests.proxy.support import resident_bytes, until

RESET = struct.pack("ii", 1, 0)
BLOCK = 262_144
_MORE_THAN_SOCKETS_HOLD = 96 << 20


@pytest.mark.parametrize(
    ("framing", "part", "end"),
    [
        ("Content-Length: 10", b"part", b""),
        ("Transfer-Encoding: chunked", b"4\r\npart\r\n", b"0\r\n\r\n"),
    ],
    ids=["length", "chunked"],
)
async def test_an_upstream_reset_in_the_middle_of_a_body_leaves_it_visibly_cut(
    world: World, framing: str, part: bytes, end: bytes
) -> None:
    async def breaks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n".encode() + part)
        await writer.drain()
        await asyncio.sleep(0.1)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    world.upstream.reply = breaks
    async with asyncio.timeout(20):
        answer = await world.talk(world.get(), seconds=40)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"part" in answer
    assert not end or end not in answer
    await until(lambda: bool(world.audit.ends))
    assert [end.cause for end in world.audit.ends] == ["upstream_error:response"]


async def until_the_end(world: World, version: str) -> tuple[bytes, str]:
    """What a client that minds the end of its TLS (RFC 8446, section 6.1) gets, and how it ended."""

    def talk(context: ssl.SSLContext) -> tuple[bytes, str]:
        received = b""
        with (
            socket.create_connection(("127.0.0.1", world.port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname=world.host, suppress_ragged_eofs=False) as opened,
        ):
            opened.sendall(world.get(version=version))
            try:
                while data := opened.recv(65_536):
                    received += data
            except ssl.SSLEOFError:
                return received, "ragged"
            except ConnectionResetError:
                return received, "reset"
            return received, "close_notify"

    return await asyncio.to_thread(talk, world.client_tls())


UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\n\r\npart"


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("end", ["RST", "FIN"])
async def test_a_body_that_ends_with_its_connection_is_whole_only_behind_a_close_notify(
    world: World, end: str, version: str
) -> None:
    async def breaks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(UNTIL_CLOSE)
        await writer.drain()
        await asyncio.sleep(0.1)
        if end == "RST":
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    world.upstream.reply = breaks
    received, how = await until_the_end(world, version)
    assert how == "reset"
    assert not received.endswith(b"0\r\n\r\n")
    await until(lambda: bool(world.audit.ends))
    assert [end.cause for end in world.audit.ends] == ["upstream_error:response"]


@pytest.mark.parametrize(("version", "whole"), [("1.0", b"part"), ("1.1", b"4\r\npart\r\n0\r\n\r\n")])
async def test_a_whole_one_ends_with_a_close_notify_for_the_client_too(
    world: World, version: str, whole: bytes
) -> None:
    async def ends(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(UNTIL_CLOSE)
        writer.close()
        await writer.wait_closed()

    world.upstream.reply = ends
    received, how = await until_the_end(world, version)  # of HTTP/1.1 the keep-alive timeout is the end
    assert how == "close_notify"
    assert received.endswith(b"\r\n\r\n" + whole)
    await until(lambda: bool(world.audit.ends))
    assert [end.cause for end in world.audit.ends] == ["closed"]


@pytest.mark.parametrize("framing", [b"", b"Content-Length: 10\r\n"], ids=["until-close", "length"])
async def test_an_upstream_that_falls_silent_in_the_middle_of_a_body_is_cut_as_idle(
    world: World, monkeypatch: pytest.MonkeyPatch, framing: bytes
) -> None:
    async def stalls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\npart")
        await reader.read()

    monkeypatch.setattr(world.inspector.services, "settings", world.settings.model_copy(update={"idle_timeout": 0.5}))
    world.upstream.reply = stalls
    _, how = await until_the_end(world, "1.0")
    assert how == "reset"
    await until(lambda: bool(world.audit.ends))
    assert [end.cause for end in world.audit.ends] == ["idle"]


@pytest.mark.parametrize("hard", [True, False], ids=["reset", "FIN"])
async def test_a_client_that_vanishes_in_the_middle_of_a_body_takes_its_upstream_with_it(
    world: World, *, hard: bool
) -> None:
    gone = asyncio.Event()

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while True:
                writer.write(b"5\r\nbytes\r\n")
                await writer.drain()
                await asyncio.sleep(0.001)
        except (ConnectionError, ssl.SSLError):
            gone.set()

    world.upstream.reply = endless
    reader, writer = await world.connect()
    writer.write(world.get())
    await reader.readuntil(b"bytes")
    if hard:
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()
    async with asyncio.timeout(20):
        await gone.wait()
    await until(lambda: world.in_use == 0)
    assert [end.cause for end in world.audit.ends] == ["client_reset"]


@pytest.mark.parametrize("slow_side", ["client", "upstream"])
async def test_a_slow_reader_holds_a_fast_writer_and_gets_every_byte(world: World, slow_side: str) -> None:
    rng = random.Random(slow_side)
    body, release, held = rng.randbytes(_MORE_THAN_SOCKETS_HOLD), asyncio.Event(), [0]
    received = hashlib.sha256()

    async def pour(writer: asyncio.StreamWriter) -> None:
        at = 0
        while at < len(body):
            size = rng.choice((1, 1460, 65_536, 700_000))
            writer.write(body[at : at + size])
            at += size
            await writer.drain()
            held[0] = at

    async def take(reader: asyncio.StreamReader) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await release.wait()
        left = len(body)
        while left:
            data = await reader.read(min(left, BLOCK))
            assert data
            left -= len(data)
            received.update(data)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if slow_side == "upstream":
            await take(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nEND")
        else:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode())
            await pour(writer)
        await reader.read()

    world.upstream.reply = serve
    reader, writer = await world.connect()
    sends = slow_side == "upstream"
    writer.write(world.get("/", f"Content-Length: {len(body)}\r\n", method="POST") if sends else world.get())
    before = resident_bytes()
    work = asyncio.ensure_future(pour(writer) if sends else take(reader))
    await asyncio.sleep(1)
    # How much lies in sockets is for the kernel to say; this process has the buffers of four TLS ends, not the body.
    assert held[0] > 0
    assert resident_bytes() - before < len(body) // 4
    release.set()
    async with asyncio.timeout(60):
        await work
        if sends:
            await reader.readuntil(b"END")
    assert received.digest() == hashlib.sha256(body).digest()
    writer.transport.abort()
