"""Limits and places that Python and the native plane count together."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from typing import Final

import pytest

from cloned_proxy.policy.model.model import Limits
from cloned_proxy.proxy.plane.parties import PARTIES
from cloned_proxy.proxy.transport.listener import Listener, bind_tcp
from tests.proxy.plane.looks import DEMO, granted, plane_of, tunnel
from tests.proxy.support import (
    HOST,
    allow,
    connect_head,
    hello,
    policy,
    until,
    upstream,
    world,
)

pytestmark = pytest.mark.usefixtures("native")


_HANDED_OVER: Final = 2


async def test_bytes_that_pass_natively_count_against_the_limit_and_cut() -> None:
    async with upstream() as server:
        limited = policy(allow(HOST, server.port), limits=Limits(bytes_per_hour=1_000_000))
        async with world(current=limited, principal=DEMO) as w, tunnel(w, server.port) as (reader, writer):
            w.gate.sweep()
            assert w.audit.ends == []
            writer.write(b"x" * 600_000)
            await reader.readexactly(600_000)
            w.gate.sweep()
            with pytest.raises(ConnectionError):
                await reader.readexactly(1)
            await w.settled()
            assert [end.cause for end in w.audit.ends] == ["revoked:limit_exceeded"]


@pytest.mark.parametrize("limits", [Limits(concurrent=2), Limits(requests_per_minute=2)])
async def test_both_sides_count_together(limits: Limits) -> None:
    async with upstream() as server:
        current = policy(allow(HOST, server.port), limits=limits)
        async with world(current=current, principal=DEMO) as w, tunnel(w, server.port):
            # Python reads this head, which the plane does not.
            _, writer = await w.connect()
            writer.write(connect_head(server.port).replace(b"Host", b"TE: trailers\r\nHost"))
            await until(lambda: len(w.audit.verdicts) == 2)
            reply = await w.ask(connect_head(server.port))
            assert (reply.status, reply.json["reason"]) == (429, "limit_exceeded")
            writer.transport.abort()
        assert granted(w) == 1


async def test_a_limit_larger_than_the_plane_can_count_is_no_small_one() -> None:
    limits = Limits(concurrent=2**64, requests_per_minute=2**64 + 1, bytes_per_hour=2**65)
    async with upstream() as server:
        current = policy(allow(HOST, server.port), limits=limits)
        async with world(current=current, principal=DEMO) as w, tunnel(w, server.port):
            assert granted(w) == 1


async def test_the_cap_of_connections_holds_over_both() -> None:
    async with upstream() as server, world(allow(HOST, server.port), settings={"max_connections": 2}) as w:
        reader, writer = await w.tunnel(server.port)
        await reader.readexactly(len(hello()))
        _, python = await w.connect()
        python.write(b"CONNECT ")
        await until(lambda: len(w.gate._connections) == 1)
        waiting = asyncio.create_task(w.tunnel(server.port))
        await until(lambda: w.gate._room.is_wanted(w.listener, contended=False))
        assert not waiting.done()
        python.transport.abort()
        (await waiting)[1].transport.abort()
        assert granted(w) == 2
        writer.transport.abort()


async def test_a_listener_that_closes_takes_what_it_hands_over_from_its_own_party() -> None:
    async with world() as w:
        plane = plane_of(w)
        own = Listener(bind_tcp("127.0.0.1", 0), DEMO, "slot")
        with contextlib.closing(own.socket), contextlib.ExitStack() as clients:
            await w.gate.open(own)
            deadline = time.monotonic() + 60
            for _ in range(5):
                client = clients.enter_context(socket.create_connection(own.socket.getsockname()))
                client.sendall(b"X / HTTP/1.1\r\n\r\n")  # Python's to answer
            # The loop stands still meanwhile: all of them wait for it when the listener closes.
            while plane._told()[_HANDED_OVER] < 5:
                assert time.monotonic() < deadline
                time.sleep(0.001)  # noqa: ASYNC251  see above
            w.gate.close(own)
        await w.settled()
        assert not any(plane.cells.open("parties", PARTIES).values)


async def test_a_connection_on_its_way_from_the_plane_has_a_place_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(settings={"max_connections": 1}) as w:
        plane = plane_of(w)
        own = w.gate._cap._cells
        held: list[list[int]] = []
        given_up = plane._library.plane_adopted

        def adopted(*arguments: object) -> None:
            held.append(list(own.column(0)))
            given_up(*arguments)

        monkeypatch.setattr(plane._library, "plane_adopted", adopted)
        _, writer = await w.connect()
        writer.write(b"CONNECT ")
        await until(lambda: len(w.gate._connections) == 1)
        assert held == [[1, 1]]  # ours, and that of the plane, which gives it up behind this
        assert list(own.column(0)) == [1, 0]
        writer.transport.abort()
        await w.settled()
