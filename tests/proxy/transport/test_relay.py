"""The relay between real sockets: every byte, both ways, whatever the order of the ends."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import random
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from functools import partial
from typing import Protocol

import pytest

from cloned_proxy.policy.terms.rule import Address, Rule
from cloned_proxy.proxy.transport import relay, splice
from cloned_proxy.proxy.transport.reset import reset_socket
from cloned_proxy.proxy.tunnel.open_tunnel import OpenTunnel
from cloned_proxy.proxy.upstream import dial
from tests.proxy import support
from tests.proxy.support import HOST, World, allow, until, upstream

RAW = {"raw_tcp": True}


class MakeWorld(Protocol):
    def __call__(self, *rules: Rule) -> AbstractAsyncContextManager[World]: ...


@pytest.fixture(params=["transports", "spliced", "spliced from the start"])
def world(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> MakeWorld:
    """A gate whose bytes never, sometimes or always leave the transports."""
    spliced = request.param != "transports"
    if spliced and not splice.AVAILABLE:
        pytest.skip("os.splice is Linux only")
    if request.param == "spliced from the start":
        monkeypatch.setattr(relay, "BULK_BYTES", 1)
    return partial(support.world, spliced=spliced)


async def random_bytes_both_ways(seed: int, world: MakeWorld) -> None:
    """Random sizes and segments, compared by hash; every byte is counted, too."""
    rng = random.Random(seed)
    up, down = rng.randbytes(3_000_000 + seed), rng.randbytes(2_000_000 + seed)

    async def send(writer: asyncio.StreamWriter, data: bytes) -> None:
        at = 0
        while at < len(data):
            size = rng.choice((1, 7, 1460, 65_536, 300_000))
            writer.write(data[at : at + size])
            at += size
            await writer.drain()
        writer.write_eof()

    digests: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sending = asyncio.ensure_future(send(writer, down))
        digests.append(hashlib.sha256(await reader.read()).hexdigest())
        await sending

    async with upstream(serve) as server, world(allow(HOST, server.port, **RAW)) as w:
        reader, writer = await w.tunnel(server.port, first=b"")
        sending = asyncio.ensure_future(send(writer, up))
        received = await reader.read()
        await sending
        writer.close()
        await w.settled()
        await until(lambda: bool(digests))
    assert hashlib.sha256(received).digest() == hashlib.sha256(down).digest()
    assert digests == [hashlib.sha256(up).hexdigest()]
    assert [(end.bytes_up, end.bytes_down) for end in w.audit.ends] == [(len(up), len(down))]


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_random_sizes_and_segments_arrive_unchanged_both_ways(seed: int, world: MakeWorld) -> None:
    await random_bytes_both_ways(seed, world)


@contextmanager
def storm_of_signals() -> Iterator[list[int]]:
    """Signals to the thread of the loop, thousands a second: each may end a system call with EINTR."""
    came: list[int] = []
    over = threading.Event()
    loops = threading.get_ident()

    def send() -> None:
        while not over.wait(0.0002):
            signal.pthread_kill(loops, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, lambda number, _: came.append(number))
    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield came
    finally:
        over.set()
        sender.join()
        signal.signal(signal.SIGUSR1, before)


async def test_a_storm_of_signals_costs_no_byte(world: MakeWorld) -> None:
    with storm_of_signals() as came:
        while len(came) <= 20:
            await random_bytes_both_ways(4, world)


async def test_a_storm_of_eagain_costs_no_byte(world: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel says "ready" and then takes or gives nothing; and its buffers are as small as they can be."""
    rng = random.Random(5)
    refused = 0

    def moody[**P, R](call: Callable[P, R]) -> Callable[P, R]:
        def made(*args: P.args, **more: P.kwargs) -> R:
            nonlocal refused
            if rng.random() < 0.5:
                refused += 1
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            return call(*args, **more)

        return made

    class Moody(socket.socket):
        recv, recv_into = moody(socket.socket.recv), moody(socket.socket.recv_into)
        send, sendmsg = moody(socket.socket.send), moody(socket.socket.sendmsg)

    begin = dial._begin

    def begin_moody(address: Address, port: int) -> tuple[socket.socket, bool]:
        plain, connected = begin(address, port)
        sock = Moody(fileno=plain.detach())
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        return sock, connected

    monkeypatch.setattr(dial, "_begin", begin_moody)
    if splice.AVAILABLE:
        monkeypatch.setattr(os, "splice", moody(os.splice))
    await random_bytes_both_ways(5, world)
    # uvloop's transports make their calls in C: there the small buffers alone make the storm.
    in_python = isinstance(asyncio.get_running_loop(), asyncio.SelectorEventLoop)
    assert refused > 20 or not in_python


async def test_after_the_clients_fin_the_answer_still_comes(world: MakeWorld) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.read()
        await asyncio.sleep(0.05)
        writer.write(b"answer to " + asked)
        writer.write_eof()
        await asyncio.sleep(0.05)

    async with upstream(serve) as server, world(allow(HOST, server.port, **RAW)) as w:
        reader, writer = await w.tunnel(server.port, first=b"question")
        writer.write_eof()
        assert await reader.read() == b"answer to question"
        await w.settled()
        assert [end.cause for end in w.audit.ends] == ["closed"]
        writer.close()


async def test_after_the_upstreams_fin_the_client_may_still_send(world: MakeWorld) -> None:
    received = asyncio.Event()
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"all I have")
        writer.write_eof()
        seen.append(await reader.read())
        received.set()

    async with upstream(serve) as server, world(allow(HOST, server.port, **RAW)) as w:
        reader, writer = await w.tunnel(server.port, first=b"")
        assert await reader.read() == b"all I have"
        writer.write(b"late words")
        writer.write_eof()
        async with asyncio.timeout(60):
            await received.wait()
        assert seen == [b"late words"]
        await w.settled()
        assert w.gate.idle
        writer.close()


async def test_an_upstream_reset_reaches_the_client_as_a_reset(world: MakeWorld) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(5)
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        writer.transport.abort()

    async with upstream(serve) as server, world(allow(HOST, server.port, **RAW)) as w:
        reader, writer = await w.tunnel(server.port, first=b"hello")
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        await w.settled()
        assert [end.cause for end in w.audit.ends] == ["upstream_error:response"]
        writer.transport.abort()


async def test_a_client_reset_frees_both_sides(world: MakeWorld) -> None:
    async with upstream() as server, world(allow(HOST, server.port, **RAW)) as w:
        reader, writer = await w.tunnel(server.port, first=b"hello")
        await reader.readexactly(5)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        writer.transport.abort()
        await w.settled()
        assert [end.cause for end in w.audit.ends] == ["client_reset"]


async def test_small_writes_are_not_delayed_on_the_clients_side(world: MakeWorld) -> None:
    async with upstream() as server, world(allow(HOST, server.port, **RAW)) as w:
        _, writer = await w.tunnel(server.port, first=b"x")
        await asyncio.sleep(0.05)
        (connection,) = w.gate._connections
        sock = connection.transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        writer.close()


def buffered(w: World) -> int:
    """Bytes that the relays hold in memory."""
    tunnels = [client.owner for client in w.gate._connections if isinstance(client.owner, OpenTunnel)]
    ends = [end for each in tunnels if each.relay is not None for end in (each.relay.client, each.relay.upstream)]
    return sum(end.transport.get_write_buffer_size() for end in ends if end.transport is not None)


@pytest.mark.parametrize("slow_side", ["client", "upstream"])
async def test_a_slow_reader_stops_a_fast_writer_and_memory_stays_bounded(slow_side: str, world: MakeWorld) -> None:
    size = 24_000_000
    release, total = asyncio.Event(), [0]

    async def pour(writer: asyncio.StreamWriter) -> None:
        for _ in range(size // 100_000):
            writer.write(b"x" * 100_000)
            await writer.drain()
        writer.write_eof()

    async def count(reader: asyncio.StreamReader) -> None:
        await release.wait()
        while data := await reader.read(1_000_000):
            total[0] += len(data)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if slow_side == "client":
            await pour(writer)
            await reader.read()
        else:
            await count(reader)

    async with upstream(serve) as server, world(allow(HOST, server.port, **RAW)) as w:
        reader, writer = await w.tunnel(server.port, first=b"")
        work = asyncio.ensure_future(count(reader) if slow_side == "client" else pour(writer))
        await asyncio.sleep(0.5)
        assert buffered(w) < 1_000_000
        assert w.audit.ends == []
        release.set()
        await work
        if slow_side == "client":
            writer.close()
        await until(lambda: total[0] >= size)
        writer.close()
        await w.settled()
    assert total[0] == size


def test_a_reset_of_a_socket_that_the_loop_has_let_go_of_closes_it() -> None:
    class Released(socket.socket):
        def setsockopt(self, *_: object) -> None:
            raise ValueError("Invalid file descriptor: -1")  # as the loop says it

    with Released() as sock:
        reset_socket(sock)
        assert sock.fileno() < 0
