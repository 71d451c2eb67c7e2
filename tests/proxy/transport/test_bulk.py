"""A busy direction on a pump: found only by its speed. Exact, cut like any other, and nothing left open."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import random
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cloned_proxy.policy.callers.caller import Principal
from cloned_proxy.policy.model.model import Limits
from cloned_proxy.proxy.transport import bulk, relay, splice
from cloned_proxy.proxy.transport.bulk import Splicer
from cloned_proxy.proxy.transport.splice import KernelPipe, PipePool
from tests.proxy.support import HOST, SERVER_HELLO, World, allow, hello, policy, until, upstream, world

pytestmark = pytest.mark.skipif(not splice.AVAILABLE, reason="os.splice is Linux only")

MEGABYTE = bytes(range(256)) * 4096
RAW = {"raw_tcp": True}
RESET = struct.pack("ii", 1, 0)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def splicer_of(w: World) -> Splicer:
    splicer = w.gate._splicer
    assert splicer is not None
    return splicer


async def pour(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An upstream that sends without end."""
    writer.write(SERVER_HELLO)
    while True:
        writer.write(MEGABYTE)
        await writer.drain()


@asynccontextmanager
async def spliced_download(w: World, port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A tunnel whose way down has just moved onto a pump."""
    reader, writer = await w.tunnel(port)
    taking = asyncio.ensure_future(take(reader))
    await until(lambda: len(splicer_of(w)) == 1)
    taking.cancel()
    await asyncio.wait([taking])
    yield reader, writer
    writer.transport.abort()


async def take(reader: asyncio.StreamReader) -> None:
    while await reader.read(1 << 20):
        pass


async def test_a_download_moves_onto_a_pump_and_leaves_no_descriptor() -> None:
    size = len(SERVER_HELLO) + 8 * len(MEGABYTE)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(hello()))
        writer.write(SERVER_HELLO)
        for _ in range(8):
            writer.write(MEGABYTE)
            await writer.drain()
        writer.write_eof()
        await reader.read()

    async with upstream(serve) as server, world(allow(HOST, server.port)) as w:
        before = open_descriptors()
        reader, writer = await w.tunnel(server.port)
        received = 0
        joined = 0
        while data := await reader.read(1 << 16):
            received += len(data)
            joined = max(joined, len(splicer_of(w)))
        writer.close()
        await w.settled()
        assert received == size
        assert joined == 1
        assert w.audit.ends[0].bytes_down == size
        splicer_of(w).close()
        await until(lambda: open_descriptors() <= before)


@pytest.mark.parametrize("seed", range(3))
async def test_moving_back_and_forth_loses_nothing(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pipes fail at random, so both directions change between pump and transport all the time."""
    rng = random.Random(seed)
    take_pipe = PipePool.take
    refused = 0

    def sometimes(pool: PipePool) -> KernelPipe:
        nonlocal refused
        if rng.random() < 0.4:
            refused += 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return take_pipe(pool)

    monkeypatch.setattr(PipePool, "take", sometimes)
    monkeypatch.setattr(relay, "BULK_BYTES", 20_000)
    sent = rng.randbytes(6_000_000)

    async def send(writer: asyncio.StreamWriter) -> None:
        at = 0
        while at < len(sent):
            size = rng.choice((1, 100, 1460, 65_536, 200_000))
            writer.write(sent[at : at + size])
            at += size
            await writer.drain()
            if rng.random() < 0.2:
                await asyncio.sleep(0.001)
        writer.write_eof()

    async with upstream() as server, world(allow(HOST, server.port, **RAW)) as w:
        reader, writer = await w.tunnel(server.port, first=b"")
        sending = asyncio.ensure_future(send(writer))
        received = await reader.read()
        await sending
        writer.close()
        await w.settled()
    assert hashlib.sha256(received).digest() == hashlib.sha256(sent).digest()
    assert [(end.bytes_up, end.bytes_down, end.cause) for end in w.audit.ends] == [(len(sent), len(sent), "closed")]
    assert refused > 3


async def test_what_waits_for_a_slow_reader_goes_before_what_the_pump_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = random.Random(1).randbytes(4_000_000)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        await writer.drain()
        writer.write_eof()
        await reader.read()

    monkeypatch.setattr(relay, "BULK_BYTES", 1 << 60)
    async with upstream(serve) as server, world(allow(HOST, server.port, **RAW)) as w:
        reader, writer = await w.tunnel(server.port, first=b"x")
        (connection,) = w.gate._connections
        # So small that the kernel never takes all at once: pump and transport would take turns.
        connection.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        await asyncio.sleep(0.2)
        assert connection.transport.get_write_buffer_size() > 0
        monkeypatch.setattr(relay, "BULK_BYTES", 1)
        received = bytearray()
        while data := await reader.read(100_000):
            received += data
        assert hashlib.sha256(received).digest() == hashlib.sha256(sent).digest()
        writer.close()
        await w.settled()


async def test_revocation_cuts_a_spliced_tunnel_on_both_sides() -> None:
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await pour(reader, writer)
        except ConnectionError:
            gone.set()

    async with upstream(serve) as server, world(allow(HOST, server.port)) as w:
        before = open_descriptors()
        async with spliced_download(w, server.port) as (reader, _):
            w.policies.current = policy()
            w.gate.sweep()
            assert len(splicer_of(w)) == 0  # at once: no byte passes between the cut and the end of the connection
            with pytest.raises(ConnectionResetError):
                await take(reader)
            async with asyncio.timeout(60):
                await gone.wait()
            await w.settled()
        assert [end.cause for end in w.audit.ends] == ["revoked:host_not_allowed"]
        assert w.audit.ends[0].bytes_down > 0
        assert len(splicer_of(w)) == 0
        splicer_of(w).close()
        await until(lambda: open_descriptors() <= before)


async def test_the_bytes_of_a_spliced_tunnel_count_against_its_limit() -> None:
    demo = Principal("demo@v1")
    async with upstream(pour) as server:
        limited = policy(allow(HOST, server.port), limits=Limits(bytes_per_hour=80_000_000))
        async with world(current=limited, principal=demo) as w, spliced_download(w, server.port) as (reader, _):
            w.gate.sweep()
            assert w.audit.ends == []
            await reader.readexactly(80_000_000)
            w.gate.sweep()
            await w.settled()
            assert [end.cause for end in w.audit.ends] == ["revoked:limit_exceeded"]


async def test_an_upstream_reset_in_the_middle_of_bulk_reaches_the_client_as_a_reset() -> None:
    moved = asyncio.Event()

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SERVER_HELLO)
        while not moved.is_set():
            writer.write(MEGABYTE)
            await writer.drain()
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        writer.transport.abort()

    async with upstream(serve) as server, world(allow(HOST, server.port)) as w:
        async with spliced_download(w, server.port) as (reader, _):
            moved.set()
            with pytest.raises(ConnectionResetError):
                await take(reader)
            await w.settled()
        assert [end.cause for end in w.audit.ends] == ["upstream_error:response"]


@pytest.mark.parametrize("hard", [True, False])
async def test_a_client_that_vanishes_in_the_middle_of_bulk_frees_everything(*, hard: bool) -> None:
    async with upstream(pour) as server, world(allow(HOST, server.port)) as w:
        before = open_descriptors()
        async with spliced_download(w, server.port) as (_, writer):
            if hard:
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.transport.abort()
            await w.settled()
        assert [end.cause for end in w.audit.ends] == ["client_reset"]
        splicer_of(w).close()
        await until(lambda: open_descriptors() <= before)


@pytest.mark.parametrize("fails", ["dup", "pipe2"])
async def test_without_a_descriptor_to_spare_bulk_stays_on_the_transports(
    fails: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = 0

    def none_left(*_: object) -> None:
        nonlocal tried
        tried += 1
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async with upstream(pour) as server, world(allow(HOST, server.port)) as w:
        reader, writer = await w.tunnel(server.port)
        monkeypatch.setattr(os, fails, none_left)
        await reader.readexactly(5_000_000)
        monkeypatch.undo()
        assert tried > 1
        await reader.readexactly(5_000_000)
        assert len(splicer_of(w)) == 1
        writer.transport.abort()
        await w.settled()


async def test_a_quiet_flow_gives_its_place_to_a_busy_one() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(MEGABYTE if data == b"more" else data)

    now = 0.0
    async with upstream(talk) as server, world(allow(HOST, server.port, **RAW)) as w:
        splicer = splicer_of(w)
        splicer._most = 1  # type: ignore[misc]  # Final for everybody else
        splicer.clock = lambda: now  # type: ignore[misc]

        async def ask_for_more(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> object:
            """The flow that has the one place afterwards."""
            writer.write(b"more")
            assert await reader.readexactly(len(MEGABYTE)) == MEGABYTE
            (flow,) = splicer._flows
            return flow

        first, second = await w.tunnel(server.port, first=b"x"), await w.tunnel(server.port, first=b"x")
        for reader, _ in (first, second):
            await reader.readexactly(1)
        holder = await ask_for_more(*first)
        assert await ask_for_more(*second) is holder
        now = bulk._IDLE_SECONDS
        assert await ask_for_more(*second) is not holder
        for reader, writer in (first, second):
            writer.write(b"small")
            assert await reader.readexactly(5) == b"small"
            writer.close()
        await w.settled()


async def test_a_small_answer_does_not_wait_for_a_bulk_flow_beside_it() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            if data == b"bulk":
                await pour(reader, writer)
            writer.write(data)

    async with upstream(serve) as server, world(allow(HOST, server.port, **RAW)) as w:
        bulk_reader, bulk_writer = await w.tunnel(server.port, first=b"bulk")
        taking = asyncio.ensure_future(take(bulk_reader))
        reader, writer = await w.tunnel(server.port, first=b"echo")
        await reader.readexactly(4)
        await until(lambda: len(splicer_of(w)) == 1)
        async with asyncio.timeout(5):
            for _ in range(50):
                writer.write(b"ping")
                await reader.readexactly(4)
        assert not taking.done()
        taking.cancel()
        await asyncio.wait([taking])
        for one in (bulk_writer, writer):
            one.transport.abort()
        await w.settled()
