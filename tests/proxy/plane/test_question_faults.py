"""Questions of the native plane when it fails meanwhile, when a listener closes, and when one caller asks very many."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloned_proxy.policy.callers.identity import Claims, mint_token
from cloned_proxy.proxy.plane import verdicts
from cloned_proxy.proxy.plane.questions import Questions
from cloned_proxy.proxy.transport.listener import Listener
from tests.proxy.plane.looks import DEMO, granted, plane_of
from tests.proxy.support import KEY, SERVING, World, allow, connect_head, hello, need_plane, upstream, world

_THERE = "127.0.0.1"
_OTHERS = [f"127.0.0.{number}" for number in range(2, 12)]
_MANY = 200
_CONNECTIONS = 0
"""In what `plane_numbers` tells."""
_EVER_NEW = [f"127.1.{number // 250}.{number % 250 + 1}" for number in range(8 * _MANY)]


@pytest.fixture(autouse=True)
def _native() -> Iterator[None]:
    need_plane()
    SERVING.native = True
    yield
    SERVING.native, SERVING.threads = False, 1


async def _ask(w: World, port: int, host: str, headers: str = "") -> None:
    """One CONNECT; its status does not matter."""
    reader, writer = await w.connect()
    writer.write(connect_head(port, host, headers) + hello(None))
    await reader.readuntil(b"\r\n\r\n")
    writer.transport.abort()
    await w.settled()


def _plane_threads() -> list[str]:
    names = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended meanwhile
            names.append((task / "comm").read_text())
    return [name for name in names if name.startswith("plane-")]


async def test_a_connection_that_goes_back_to_a_plane_that_has_failed_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has one place, which the next one needs."""
    async with upstream() as server, world(allow(_THERE, server.port), known=False, max_connections=1) as w:
        settle = Questions.settle

        def late(self: Questions, *arguments: object) -> bool:
            settled = settle(self, *arguments)  # type: ignore[arg-type]
            plane_of(w).panic()
            while _plane_threads():
                time.sleep(0.001)
            return settled

        monkeypatch.setattr(Questions, "settle", late)
        reader, writer = await w.connect()
        writer.write(connect_head(server.port, _THERE))
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()
        await w.settled()
        await _ask(w, server.port, _THERE)
        assert plane_of(w).failed
        assert w.audit.verdicts == [("allow", "allowed")]


async def test_a_listener_closes_while_others_go_on_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each question that is answered lets another one come; the loop is not to wait for the last of them."""
    server = socket.create_server(("", 0), backlog=_MANY)  # the kernel answers for it
    port = server.getsockname()[1]
    async with world(*(allow(host, port) for host in _EVER_NEW), known=False) as w:
        own = Listener(socket.create_server(("127.0.0.1", 0)), DEMO, "host")
        await w.gate.open(own)
        settle, stop = Questions.settle, threading.Event()
        asked: list[float] = []

        def slow(self: Questions, *arguments: object) -> bool:
            asked.append(time.monotonic())
            time.sleep(0.005)
            return len(asked) < _MANY and settle(self, *arguments)  # type: ignore[arg-type]

        hosts = iter(_EVER_NEW)  # each is a question
        arguments = w.listener.socket.getsockname(), port, hosts, stop
        threads = [threading.Thread(target=_ask_on, args=arguments) for _ in range(4)]
        try:
            for each in threads:
                each.start()
            while plane_of(w)._told()[_CONNECTIONS] < len(threads):
                time.sleep(0.001)  # noqa: ASYNC251  the loop stands still: all of them wait for it
            monkeypatch.setattr(Questions, "settle", slow)
            w.gate.close(own)
            assert len(asked) < _MANY // 2
        finally:
            stop.set()
            for each in threads:
                await asyncio.to_thread(each.join)
        await w.settled()
    server.close()


def _ask_on(address: tuple[str, int], port: int, hosts: Iterator[str], stop: threading.Event) -> None:
    while not stop.is_set():
        with socket.create_connection(address) as client:
            client.sendall(connect_head(port, next(hosts)))
            client.settimeout(30)
            client.recv(1)


async def test_who_asks_for_ever_new_hosts_does_not_push_out_what_others_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdicts, "MOST", 4)
    async with upstream() as server:
        hosts = [_THERE, *_OTHERS]
        async with world(*(allow(host, server.port) for host in hosts), known=False) as w:
            await _ask(w, server.port, _THERE)
            (used,) = plane_of(w)._verdicts.known.values()
            for host in _OTHERS:
                await _ask(w, server.port, host)
            assert used.live
            assert len(plane_of(w)._verdicts.known) <= verdicts.MOST // 2
            before = granted(w)
            await _ask(w, server.port, _THERE)
            assert granted(w) == before + 1


async def test_a_credential_that_is_written_at_length_is_not_kept() -> None:
    """There is no end of ways to write the same one, and each would be a verdict of its own."""
    token = mint_token(KEY, Claims("demo@v1", "run", time.time() + 600))
    async with upstream() as server, world(allow(_THERE, server.port), known=False) as w:
        await _ask(w, server.port, _THERE, f"Proxy-Authorization: Bearer {token}\r\n")
        assert len(plane_of(w)._verdicts.known) == 1
        await _ask(w, server.port, _THERE, f"Proxy-Authorization: Bearer {' ' * 5000}{token}\r\n")
        assert len(plane_of(w)._verdicts.known) == 1
        assert (granted(w), w.audit.verdicts) == (1, [("allow", "allowed")] * 2)
