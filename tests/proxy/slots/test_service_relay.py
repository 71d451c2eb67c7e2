"""The port of a service in a slot: what comes through it, and how much a tool can hold there that says nothing."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from cloned_proxy.policy.callers.caller import ANONYMOUS
from cloned_proxy.proxy.slots import service_relay
from cloned_proxy.proxy.slots.service_relay import ServiceRelay
from cloned_proxy.proxy.transport.listener import Listener, bind_unix
from tests.proxy.gate.clients import answer, client
from tests.proxy.plain.support import answering
from tests.proxy.support import HOST, allow, until, upstream, world

_RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nreached"
_REQUEST = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_silent_connections_take_a_bounded_number_of_descriptors_and_who_waits_is_served(tmp_path: Path) -> None:
    path = tmp_path / "service.sock"
    loop = asyncio.get_running_loop()
    async with upstream(answering(_RESPONSE)) as server, world(allow(HOST, server.port)) as w:
        relay = ServiceRelay(w.gate, Listener(bind_unix(path), ANONYMOUS, "slot"), (HOST, server.port))
        await relay.start()
        with ExitStack() as stack:
            silent = []
            before = descriptors()
            for _ in range(200):
                sock = stack.enter_context(socket.socket(socket.AF_UNIX))
                sock.setblocking(False)
                await loop.sock_connect(sock, str(path))
                silent.append(sock)
            await until(relay._room.locked)
            assert descriptors() - before <= 200 + 128
            asking = stack.enter_context(socket.socket(socket.AF_UNIX))
            asking.setblocking(False)
            await loop.sock_connect(asking, str(path))
            await loop.sock_sendall(asking, _REQUEST)
            for sock in silent:
                sock.close()
            answer = b""
            async with asyncio.timeout(60):
                while piece := await loop.sock_recv(asking, 4096):
                    answer += piece
            assert answer.startswith(b"HTTP/1.1 200")
            assert answer.endswith(b"reached")
        relay.close()
        await until(lambda: not relay._tasks)
        assert not path.exists() or not await connects(path)


async def test_who_asks_for_nothing_makes_room_for_who_asks_for_the_service(tmp_path: Path) -> None:
    path = tmp_path / "service.sock"
    loop = asyncio.get_running_loop()
    kept = b"GET http://denied.example/ HTTP/1.1\r\nHost: denied.example\r\n\r\n"
    async with (
        upstream(answering(_RESPONSE)) as server,
        world(allow(HOST, server.port), max_connections=1, keep_alive_timeout=600) as w,
    ):
        w.gate._room.quiet_seconds = 0
        relay = ServiceRelay(w.gate, Listener(bind_unix(path), ANONYMOUS, "slot"), (HOST, server.port))
        await relay.start()
        with ExitStack() as stack:
            stack.callback(relay.close)
            idle = await client(stack, socket.AF_INET, w.address)
            await loop.sock_sendall(idle, kept)
            assert await answer(idle) == b"HTTP/1.1 403"
            asking = await client(stack, socket.AF_UNIX, str(path))
            await loop.sock_sendall(asking, _REQUEST)
            assert await answer(asking) == b"HTTP/1.1 200"
            assert not w.gate._room._in_hand
        await until(lambda: not relay._tasks)


def taken_by_the_kernel() -> int:
    """Bytes that a Unix socket takes for a peer that reads none."""
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        ours.setblocking(False)
        taken = 0
        while True:
            try:
                taken += ours.send(bytes(65_536))
            except BlockingIOError:
                return taken


async def test_who_does_not_read_its_answer_keeps_its_place_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_relay, "_AT_ONCE", 1)
    path, size = tmp_path / "service.sock", taken_by_the_kernel() + 32_768
    loop = asyncio.get_running_loop()
    response = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)
    async with upstream(answering(response)) as server, world(allow(HOST, server.port)) as w:
        relay = ServiceRelay(w.gate, Listener(bind_unix(path), ANONYMOUS, "slot"), (HOST, server.port))
        await relay.start()
        with ExitStack() as stack:
            stack.callback(relay.close)
            slow, other = [await client(stack, socket.AF_UNIX, str(path)) for _ in range(2)]
            for each in (slow, other):
                await loop.sock_sendall(each, _REQUEST)
            await until(lambda: len(w.audit.ends) == 1)
            waiting = asyncio.create_task(answer(other))
            for _ in range(20):  # longer than it takes
                await asyncio.sleep(0.01)
            assert not waiting.done()
            told = 0
            async with asyncio.timeout(60):
                while piece := await loop.sock_recv(slow, 65_536):
                    told += len(piece)
            assert told > size
            assert await waiting == b"HTTP/1.1 200"
        await until(lambda: not relay._tasks)


async def connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, str(path))
        except ConnectionRefusedError:
            return False
    return True
