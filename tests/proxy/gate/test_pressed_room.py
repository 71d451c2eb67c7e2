"""One caller holds all places and has many more clients waiting: for how long it keeps everybody else from the gate.

Nothing in here calls the sweep, which comes once a second: the gate looks by itself while somebody waits.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from contextlib import ExitStack

import pytest

from cloned_proxy.policy.callers.caller import ANONYMOUS
from cloned_proxy.proxy.gate import room
from cloned_proxy.proxy.gate.room import Room
from cloned_proxy.proxy.gate.siblings import Siblings
from cloned_proxy.proxy.grants.cells import OwnCells
from cloned_proxy.proxy.grants.connection_cap import ConnectionCap
from cloned_proxy.proxy.transport.listener import Listener
from cloned_proxy.telemetry.wait_metrics import WaitReason
from tests.proxy.gate.clients import BEGUN, REFUSED, answer, client, connected, somebody_waits
from tests.proxy.support import World, either_gate, seconds_waited, until, world

_KEPT = REFUSED.replace(b"Connection: close\r\n", b"")


async def held_by(stack: ExitStack, w: World, first: bytes, places: int) -> list[socket.socket]:
    """Clients of one caller: as many as there are places, and three times as many behind them."""
    loop = asyncio.get_running_loop()
    clients = [await client(stack, socket.AF_INET, w.address) for _ in range(4 * places)]
    if first:
        for each in clients:
            await loop.sock_sendall(each, first)
    await until(lambda: connected(w) == places and somebody_waits(w))
    return clients


@either_gate
@pytest.mark.parametrize("first", [b"", b"G", BEGUN], ids=["nothing", "a byte", "half a head"])
async def test_who_holds_all_places_without_asking_keeps_nobody(first: bytes) -> None:
    async with world(max_connections=16, head_timeout=600) as w:
        with ExitStack() as stack:
            await held_by(stack, w, first, 16)
            asking = await client(stack, socket.AF_INET, w.address)
            await asyncio.get_running_loop().sock_sendall(asking, REFUSED)
            assert await answer(asking) == b"HTTP/1.1 403"


@either_gate
async def test_who_waits_for_a_place_is_counted_as_waiting() -> None:
    async with world(max_connections=2, head_timeout=600) as w:
        w.gate._room.quiet_seconds = w.gate._room.begun_seconds = 600
        with ExitStack() as stack:
            held = [await client(stack, socket.AF_INET, w.address) for _ in range(2)]
            await until(lambda: connected(w) == 2)
            await client(stack, socket.AF_INET, w.address)
            waited = 0.0
            for _ in range(3):  # while it goes on, the figure grows

                def more(before: float = waited) -> bool:
                    w.gate.sweep()
                    return seconds_waited(w, WaitReason.MAX_CONNECTIONS) > before

                await until(more)
                waited = seconds_waited(w, WaitReason.MAX_CONNECTIONS)
            assert w.metrics.waits.lately(60) == ["max_connections"]
            held[0].close()
            await until(lambda: not somebody_waits(w))


@either_gate
async def test_who_keeps_its_connections_and_asks_nothing_more_leaves_for_others() -> None:
    loop = asyncio.get_running_loop()
    async with world(max_connections=8, head_timeout=600, keep_alive_timeout=600) as w:
        w.gate._room.quiet_seconds = 0
        with ExitStack() as stack:
            kept = [await client(stack, socket.AF_INET, w.address) for _ in range(8)]
            for each in kept:
                await loop.sock_sendall(each, _KEPT)
                assert await answer(each) == b"HTTP/1.1 403"
            asking = await client(stack, socket.AF_INET, w.address)
            await loop.sock_sendall(asking, REFUSED)
            assert await answer(asking) == b"HTTP/1.1 403"


async def test_as_many_leave_as_wait() -> None:
    loop = asyncio.get_running_loop()
    async with world(max_connections=20, head_timeout=600) as w:
        with ExitStack() as stack:
            held = [await client(stack, socket.AF_INET, w.address) for _ in range(20)]
            for each in held:
                await loop.sock_sendall(each, BEGUN)
            await until(lambda: sum(each.begun for each in w.gate._connections) == 20)
            oldest = [each.transport.get_extra_info("peername") for each in sorted(w.gate._connections, key=_since)]
            for _ in range(3):
                asking = await client(stack, socket.AF_INET, w.address)
                await loop.sock_sendall(asking, BEGUN)
            # As they are accepted one by one, the first of them cannot be among those who leave.
            await until(lambda: sum(each.begun for each in w.gate._connections) == 20 and not somebody_waits(w))
            left = {each.transport.get_extra_info("peername") for each in w.gate._connections}
            assert [each for each in oldest if each not in left] == oldest[:3]


def _since(connection: object) -> float:
    return float(connection.quiet_since)  # type: ignore[attr-defined]  # a connection


@pytest.mark.parametrize(("held", "waiting"), [(200, 1), (200, 200), (200, 800), (20_000, 4_096), (16, 4_096), (1, 1)])
async def test_the_time_for_a_first_head_brings_everybody_in_soon(held: int, waiting: int) -> None:
    cells = OwnCells()
    cap = ConnectionCap(held, cells)
    for _ in range(held):
        cap.enter("caller", contended=False)
    patience = Room(cap, Siblings(cells), lambda: None)._patience(waiting, None)
    assert room._LEAST_SECONDS <= patience <= 1.0
    # So many times all places are given to others until the last of those who wait has one.
    times = waiting / held
    assert times * patience <= max(0.5, times * room._LEAST_SECONDS) + 1e-9


async def test_it_is_looked_again_while_descriptors_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[bool] = []
    with ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        await client(stack, socket.AF_INET, listening.getsockname())
        listener = Listener(listening, ANONYMOUS, "waits")
        cells = OwnCells()
        made = Room(ConnectionCap(5, cells), Siblings(cells), lambda: looks.append(True))

        def exhausted(_: int) -> int:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        monkeypatch.setattr(os, "dup", exhausted)
        await until(lambda: made.is_wanted(listener, contended=False))
        made.make([listener], (), None, contended=False)
        await until(lambda: looks == [True])
