"""The pump moves bytes between real sockets: exact, bounded, half-close and errors included."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cloned_proxy.proxy.transport import splice
from cloned_proxy.proxy.transport.splice import KernelPipe, PipePool, Pump, PumpEnd

pytestmark = pytest.mark.skipif(not splice.AVAILABLE, reason="os.splice is Linux only")


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
    near.setblocking(False)
    far.setblocking(False)
    return near, far


@dataclass
class Rig:
    """caller -> source ~ pump ~ sink -> upstream"""

    caller: socket.socket
    source: socket.socket
    sink: socket.socket
    upstream: socket.socket
    pipes: PipePool
    ended: asyncio.Future[PumpEnd]
    counted: int = 0

    def pump(self) -> Pump:
        def count(size: int) -> None:
            self.counted += size

        loop = asyncio.get_running_loop()
        end: Callable[[PumpEnd], None] = self.ended.set_result
        return Pump(loop, self.source, self.sink, self.pipes, on_bytes=count, on_end=end)


@pytest.fixture
async def rig() -> Iterator[Rig]:  # type: ignore[misc]  # pytest-asyncio accepts an async generator
    caller, source = tcp_pair()
    sink, upstream = tcp_pair()
    pipes = PipePool()
    made = Rig(caller, source, sink, upstream, pipes, asyncio.get_running_loop().create_future())
    yield made
    pipes.close()
    for one in (caller, source, sink, upstream):
        one.close()


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("seed", range(4))
async def test_every_byte_arrives_once_in_order_and_is_counted(rig: Rig, seed: int) -> None:
    shuffle = random.Random(seed)
    sent, received = hashlib.sha256(), hashlib.sha256()
    loop = asyncio.get_running_loop()
    rig.pump().start()
    total = 0

    async def send() -> None:
        nonlocal total
        while total < 24_000_000:
            piece = shuffle.randbytes(shuffle.choice((1, 3, 1460, 65_536, 700_000)))
            total += len(piece)
            sent.update(piece)
            await loop.sock_sendall(rig.caller, piece)
            if shuffle.random() < 0.05:
                await asyncio.sleep(0)
        rig.caller.shutdown(socket.SHUT_WR)

    async def receive() -> None:
        while piece := await loop.sock_recv(rig.upstream, shuffle.choice((1000, 262_144))):
            received.update(piece)

    await asyncio.gather(send(), receive())
    assert await rig.ended is PumpEnd.EOF
    assert received.digest() == sent.digest()
    assert rig.counted == total


async def test_end_of_file_is_passed_on_and_the_other_direction_stays_open(rig: Rig) -> None:
    loop = asyncio.get_running_loop()
    rig.pump().start()
    await loop.sock_sendall(rig.caller, b"last words")
    rig.caller.shutdown(socket.SHUT_WR)
    assert await rig.ended is PumpEnd.EOF
    assert await loop.sock_recv(rig.upstream, 100) == b"last words"
    assert await loop.sock_recv(rig.upstream, 100) == b""
    await loop.sock_sendall(rig.upstream, b"still here")
    assert await loop.sock_recv(rig.sink, 100) == b"still here"


async def test_a_slow_reader_stops_the_fast_writer(rig: Rig) -> None:
    loop = asyncio.get_running_loop()
    rig.pump().start()
    taken = 0

    async def write_as_fast_as_it_goes() -> None:
        nonlocal taken
        while True:
            await loop.sock_sendall(rig.caller, bytes(1 << 20))
            taken += 1 << 20

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(write_as_fast_as_it_goes(), 1)
    # Socket buffers and one pipe, not the writer's whole output.
    assert taken < 160 << 20
    assert not rig.ended.done()


async def test_a_reset_names_the_side_that_failed(rig: Rig) -> None:
    loop = asyncio.get_running_loop()
    rig.pump().start()
    rig.upstream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    rig.upstream.close()
    while not rig.ended.done():
        await loop.sock_sendall(rig.caller, bytes(4096))
        await asyncio.sleep(0.01)
    assert await rig.ended is PumpEnd.SINK_FAILED


async def test_an_end_of_file_that_cannot_be_passed_on_is_the_sinks_failure(rig: Rig) -> None:
    """A sink that was reset cannot be shut down; called EOF, the flow would be on record as ended in good order."""
    loop = asyncio.get_running_loop()
    rig.upstream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    rig.upstream.close()
    with pytest.raises(ConnectionResetError):
        await loop.sock_recv(rig.sink, 1)
    rig.pump().start()
    rig.caller.shutdown(socket.SHUT_WR)
    async with asyncio.timeout(60):
        assert await rig.ended is PumpEnd.SINK_FAILED


async def test_an_idle_flow_holds_no_pipe(rig: Rig) -> None:
    loop = asyncio.get_running_loop()
    before = open_descriptors()
    rig.pump().start()
    assert open_descriptors() == before
    await loop.sock_sendall(rig.caller, b"x")
    assert await loop.sock_recv(rig.upstream, 10) == b"x"
    await asyncio.sleep(0.01)
    rig.pipes.close()
    assert open_descriptors() == before


async def test_a_pipe_with_bytes_in_it_never_serves_another_flow(rig: Rig) -> None:
    loop = asyncio.get_running_loop()
    pump = rig.pump()
    pump.start()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(loop.sock_sendall(rig.caller, bytes(160 << 20)), 0.5)
    pump.stop()
    pipe = rig.pipes.take()
    with pytest.raises(BlockingIOError):
        os.read(pipe.read_end, 1)
    pipe.close()


async def test_no_descriptor_left_is_an_error_of_this_flow_only(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left() -> KernelPipe:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(rig.pipes, "take", none_left)
    rig.pump().start()
    await asyncio.get_running_loop().sock_sendall(rig.caller, b"x")
    assert await rig.ended is PumpEnd.NO_PIPE
