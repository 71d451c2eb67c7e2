"""More clients than there are places: nobody is refused, nobody keeps all places, whoever waits has one in the end."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from cloned_proxy.policy.callers.caller import ANONYMOUS
from cloned_proxy.proxy.transport.listener import Listener, bind_unix
from tests.proxy.gate.clients import (
    BEGUN,
    HELLO,
    REFUSED,
    answer,
    client,
    connected,
    somebody_waits,
    swept_until,
    tunnels,
)
from tests.proxy.support import HOST, allow, connect_head, until, upstream, world


async def test_who_finds_no_place_waits_and_is_served_when_somebody_leaves() -> None:
    async with upstream() as server, world(allow(HOST, server.port), max_connections=2) as w:

        async def call() -> None:
            reader, writer = await w.tunnel(server.port, first=HELLO)
            await reader.readexactly(len(HELLO))
            writer.transport.abort()

        async with tunnels(w, server.port, 2) as held:
            waiting = [asyncio.create_task(call()) for _ in range(20)]
            await until(lambda: somebody_waits(w))
            assert connected(w) == 2
            assert server.connections == 2
            assert not any(task.done() for task in waiting)
            held[0].transport.abort()
            async with asyncio.timeout(60):
                await asyncio.gather(*waiting)
        await w.settled()
        assert server.connections == 22
        assert len(w.audit.ends) == len(w.audit.verdicts) == 22
        assert {verdict for verdict, _ in w.audit.verdicts} == {"allow"}
        assert connected(w) == 0


async def test_a_flood_on_one_listener_leaves_room_on_the_other_and_waits_itself(tmp_path: Path) -> None:
    path = tmp_path / "slot.sock"
    loop = asyncio.get_running_loop()
    async with world(max_connections=5, head_timeout=60) as w:
        w.gate._room.quiet_seconds = w.gate._room.begun_seconds = 600
        slot = Listener(bind_unix(path), ANONYMOUS, "slot")
        await w.gate.open(slot)
        with ExitStack() as stack:
            flood = [await client(stack, socket.AF_INET, w.address) for _ in range(5)]
            await until(lambda: somebody_waits(w))
            assert connected(w) == 4
            other = await client(stack, socket.AF_UNIX, str(path))
            await loop.sock_sendall(other, REFUSED)
            assert await answer(other) == b"HTTP/1.1 403"
            await loop.sock_sendall(flood[-1], REFUSED)
            flood[0].close()
            assert await answer(flood[-1]) == b"HTTP/1.1 403"


async def test_who_asks_for_nothing_makes_room_for_who_does() -> None:
    loop = asyncio.get_running_loop()
    async with world(max_connections=32, head_timeout=60, keep_alive_timeout=60) as w:
        with ExitStack() as stack:
            for _ in range(30):
                await client(stack, socket.AF_INET, w.address)
            kept = await client(stack, socket.AF_INET, w.address)
            await loop.sock_sendall(kept, REFUSED.replace(b"Connection: close\r\n", b""))
            assert await answer(kept) == b"HTTP/1.1 403"
            begun = await client(stack, socket.AF_INET, w.address)
            await loop.sock_sendall(begun, BEGUN)
            await until(lambda: connected(w) == 32)
            w.gate._room.quiet_seconds = 0
            w.gate._room.begun_seconds = 600
            w.gate.sweep()
            assert connected(w) == 32  # nobody waits
            for _ in range(20):
                asking = await client(stack, socket.AF_INET, w.address)
                await loop.sock_sendall(asking, REFUSED)
                answering = asyncio.create_task(answer(asking))
                await until(lambda: somebody_waits(w) or answering.done())  # noqa: B023  called here
                while not answering.done():
                    w.gate.sweep()
                    await asyncio.wait({answering}, timeout=1)  # as long as it is to the next one
                assert answering.result() == b"HTTP/1.1 403"
                assert connected(w) >= 30 - 2  # not all of them at once
            await loop.sock_sendall(begun, b"Host: denied.example\r\nConnection: close\r\n\r\n")
            assert await answer(begun) == b"HTTP/1.1 403"


async def test_room_is_made_by_nobody_who_has_begun_to_ask_or_has_a_tunnel() -> None:
    loop = asyncio.get_running_loop()
    async with (
        upstream() as server,
        world(allow(HOST, server.port), max_connections=4, head_timeout=60) as w,
        tunnels(w, server.port, 1) as (kept,),
    ):
        with ExitStack() as stack:
            begun = [await client(stack, socket.AF_INET, w.address) for _ in range(2)]
            for each in begun:
                await loop.sock_sendall(each, BEGUN)
            await until(lambda: connected(w) == 3)
            await client(stack, socket.AF_INET, w.address)  # the youngest, and the only one that is quiet
            await until(lambda: connected(w) == 4)
            w.gate._room.quiet_seconds = 0
            w.gate._room.begun_seconds = 600
            for _ in range(5):
                asking = await client(stack, socket.AF_INET, w.address)
                await loop.sock_sendall(asking, REFUSED)
                answering = asyncio.create_task(answer(asking))
                await swept_until(w, answering.done)
                assert answering.result() == b"HTTP/1.1 403"
                asking.close()
            for each in begun:
                await loop.sock_sendall(each, b"Host: denied.example\r\nConnection: close\r\n\r\n")
                assert await answer(each) == b"HTTP/1.1 403"
            assert not kept.transport.is_closing()
            kept.write(b"still in use")
            await until(lambda: server.received.endswith(b"still in use"))


async def test_heads_that_never_end_give_their_places_back() -> None:
    loop = asyncio.get_running_loop()
    async with world(max_connections=8, head_timeout=0.5) as w:
        with ExitStack() as stack:
            for _ in range(8):
                await loop.sock_sendall(await client(stack, socket.AF_INET, w.address), BEGUN)
            await until(lambda: connected(w) == 8)
            asking = [await client(stack, socket.AF_INET, w.address) for _ in range(20)]
            for each in asking:
                await loop.sock_sendall(each, REFUSED)
            for each in asking:
                assert await answer(each) == b"HTTP/1.1 403"
                each.close()


async def test_who_waits_when_the_gate_stops_is_let_go() -> None:
    async with world(max_connections=1, head_timeout=60) as w:
        w.gate._room.quiet_seconds = w.gate._room.begun_seconds = 600
        with ExitStack() as stack:
            await client(stack, socket.AF_INET, w.address)
            second = await client(stack, socket.AF_INET, w.address)
            await until(lambda: somebody_waits(w))
            w.gate.stop_accepting()
            with pytest.raises(ConnectionError):
                await answer(second)


async def test_connections_that_are_given_to_the_gate_wait_for_a_place_too() -> None:
    ours, gates = socket.socketpair()
    loop = asyncio.get_running_loop()
    async with world(max_connections=1, head_timeout=60) as w:
        with ExitStack() as stack:
            stack.enter_context(ours)
            ours.setblocking(False)
            first = await client(stack, socket.AF_INET, w.address)
            await until(lambda: connected(w) == 1)
            adopting = asyncio.create_task(w.gate.adopt(gates, w.listener))
            await loop.sock_sendall(ours, connect_head(443, "denied.example"))
            await asyncio.sleep(0)
            assert not adopting.done()
            first.close()
            await adopting
            assert await answer(ours) == b"HTTP/1.1 403"
