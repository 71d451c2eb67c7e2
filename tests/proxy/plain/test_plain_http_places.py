"""Who has been answered keeps a place of the gate for no longer than the answer takes: a body that never comes, an end
that is never read, a connection that is never closed.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack
from typing import cast

import pytest

from cloned_proxy.policy.callers.caller import CallerSource, Principal
from cloned_proxy.proxy.own.requests_api import RequestsApi
from cloned_proxy.proxy.plain import kept_client
from cloned_proxy.proxy.transport.settled import unsent
from tests.proxy.gate.clients import REFUSED, answer, client, connected, slow_client, swept_until
from tests.proxy.plain.support import answering, read_message, request
from tests.proxy.support import HOST, World, allow, either_gate, until, upstream, world
from tests.proxy.tunnel.test_ended_early import OwnApi

_UNFINISHED = b"POST http://denied.example/ HTTP/1.1\r\nHost: denied.example\r\nContent-Length: 1000\r\n\r\n"
_API = cast(RequestsApi, OwnApi())
_TO_THE_PROXY = b"POST http://cloned.internal/whole HTTP/1.1\r\nHost: cloned.internal\r\nContent-Length: 420\r\n\r\n"
_LONG = b"HTTP/1.1 200 OK\r\nContent-Length: 40000\r\n\r\n" + b"x" * 40_000  # so much is taken from an upstream


async def read_on(sock: socket.socket) -> bytes:
    """All that comes until FIN; a reset would raise."""
    told = b""
    async with asyncio.timeout(60):
        while piece := await asyncio.get_running_loop().sock_recv(sock, 65_536):
            told += piece
    return told


async def is_answered(stack: ExitStack, w: World) -> None:
    """Somebody else finds a place."""
    asking = await client(stack, socket.AF_INET, w.address)
    await asyncio.get_running_loop().sock_sendall(asking, REFUSED)
    answering_other = asyncio.create_task(answer(asking))
    await swept_until(w, answering_other.done)
    assert answering_other.result() == b"HTTP/1.1 403"


async def test_who_keeps_back_the_body_of_a_refused_request_leaves_for_who_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kept_client, "LINGER_SECONDS", 0.0)
    async with world(max_connections=2, head_timeout=600) as w:
        w.gate._room.begun_seconds = 0
        with ExitStack() as stack:
            held = [await client(stack, socket.AF_INET, w.address) for _ in range(2)]
            for each in held:
                await asyncio.get_running_loop().sock_sendall(each, _UNFINISHED)
                assert await answer(each) == b"HTTP/1.1 403"
            await is_answered(stack, w)


@either_gate
@pytest.mark.parametrize("sent", [b"", b"x"], ids=["nothing of it", "a byte of it"])
async def test_who_keeps_back_the_body_of_a_request_to_the_proxy_itself_leaves_for_who_waits(sent: bytes) -> None:
    loop, tool = asyncio.get_running_loop(), Principal("demo@v1", "run", CallerSource.LISTENER)
    async with world(max_connections=2, head_timeout=600, principal=tool, requests=_API) as w:
        with ExitStack() as stack:
            held = [await client(stack, socket.AF_INET, w.address) for _ in range(2)]
            for each in held:
                await loop.sock_sendall(each, _TO_THE_PROXY + sent)
            await until(lambda: sum(each.begun for each in w.gate._connections) == 2)
            for _ in range(3):
                w.gate.sweep()
            assert connected(w) == 2  # nobody waits
            w.gate._room.begun_seconds = 0
            await is_answered(stack, w)


async def test_who_sends_that_body_is_answered_and_has_its_time_for_the_next_request() -> None:
    tool = Principal("demo@v1", "run", CallerSource.LISTENER)
    async with world(max_connections=2, head_timeout=600, principal=tool, requests=_API) as w:
        reader, writer = await w.connect()
        for _ in range(2):
            writer.write(_TO_THE_PROXY + b"x" * 419)
            await until(lambda: [each.begun for each in w.gate._connections] == [True])
            writer.write(b"x")
            assert (await read_message(reader)).status == 400
            assert [(each.begun, each.quiet) for each in w.gate._connections] == [(False, True)]
        writer.close()


async def test_who_sends_that_body_meanwhile_gets_the_whole_answer_and_a_fin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_client, "LINGER_SECONDS", 600.0)
    loop = asyncio.get_running_loop()
    async with world(max_connections=1, head_timeout=600) as w:
        w.gate._room.begun_seconds = 0
        with ExitStack() as stack:
            sending = await client(stack, socket.AF_INET, w.address)
            await loop.sock_sendall(sending, _UNFINISHED)
            assert await answer(sending) == b"HTTP/1.1 403"
            asking = asyncio.create_task(is_answered(stack, w))
            assert (await read_on(sending)).endswith(b"}\n")
            for _ in range(2):  # a socket that is closed answers the first half with a reset
                await loop.sock_sendall(sending, b"x" * 500)
            sending.close()
            await asking


async def test_who_takes_nothing_behind_its_own_fin_leaves_for_who_waits() -> None:
    async with upstream(answering(_LONG)) as server, world(allow(HOST, server.port), max_connections=2) as w:
        w.listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # not all of it is taken by the kernel
        w.gate._room.stalled.seconds = 0
        with ExitStack() as stack:
            for each in [await slow_client(stack, w, server.port) for _ in range(2)]:
                each.shutdown(socket.SHUT_WR)
            await until(lambda: len(w.audit.ends) == 2)
            assert all(unsent(each.transport) for each in w.gate._connections)
            await is_answered(stack, w)


async def test_who_takes_nothing_behind_its_own_fin_has_the_idle_timeout_for_it() -> None:
    async with (
        upstream(answering(_LONG)) as server,
        world(allow(HOST, server.port), max_connections=2, idle_timeout=1) as w,
    ):
        w.listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        with ExitStack() as stack:
            (await slow_client(stack, w, server.port)).shutdown(socket.SHUT_WR)
            await until(lambda: len(w.audit.ends) == 1)
            await swept_until(w, lambda: not connected(w))


@either_gate
async def test_who_has_all_of_its_last_answer_and_stays_is_let_go_of() -> None:
    async with upstream(answering(_LONG)) as server, world(allow(HOST, server.port), max_connections=2) as w:
        w.listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        with ExitStack() as stack:
            first = await client(stack, socket.AF_INET, w.address)  # the plane serves what Python has granted before
            await asyncio.get_running_loop().sock_sendall(first, request(server.port, headers="Connection: close\r\n"))
            assert (await read_on(first)).endswith(_LONG[-40_000:])
            first.close()
            await swept_until(w, lambda: not connected(w))
            slow = await slow_client(stack, w, server.port)
            await until(lambda: len(w.audit.ends) == 2)
            assert (await read_on(slow)).endswith(_LONG[-40_000:])
            assert connected(w) == 1
            await swept_until(w, lambda: not connected(w))
