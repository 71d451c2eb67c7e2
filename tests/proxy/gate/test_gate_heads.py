"""Heads that are malformed, too large or too slow, and clients that are gone, or send on, when they are answered."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest
from structlog.testing import capture_logs

from cloned_proxy.proxy.plain import kept_client
from cloned_proxy.proxy.tunnel import client
from tests.proxy.support import (
    Reply,
    connect_head,
    until,
    world,
)
from tests.proxy.wire.test_head import MISMATCHED, REFUSED

# Malformed heads.


@pytest.mark.parametrize("case", [*REFUSED, *MISMATCHED])
@pytest.mark.parametrize("feed", ["whole", "bytewise", "trailing"])
async def test_a_malformed_head_is_400_however_it_is_fed(case: str, feed: str) -> None:
    data = (REFUSED | MISMATCHED)[case]
    reason = "malformed_request" if case in REFUSED else "host_header_mismatch"
    async with world() as w:
        more = b"GET http://smuggled.example/ HTTP/1.1\r\nHost: smuggled.example\r\n\r\n" if feed == "trailing" else b""
        reply = await w.ask(data + more, piecewise=feed == "bytewise")
        assert (reply.status, reply.fields["x-cloned-proxy-reason"]) == (400, reason)
        assert reply.fields["connection"] == "close"
        assert reply.json["hint"]
        assert w.audit.verdicts == [("deny", reason)]
        assert w.resolver.asked == []


@pytest.mark.parametrize("piecewise", [False, True])
async def test_bytes_that_are_not_http_are_refused_at_the_first(piecewise: bool) -> None:
    async with world() as w:
        assert (await w.ask(b"\x16\x03\x01\x02\x00", piecewise=piecewise)).status == 400


@pytest.mark.parametrize("ended", [b"", b"\r\n\r\n"])
async def test_a_giant_head_is_431(ended: bytes) -> None:
    async with world(max_head_bytes=1024) as w:
        reply = await w.ask(b"CONNECT a.example:443 HTTP/1.1\r\nX: " + b"x" * 100_000 + ended)
        assert (reply.status, reply.json["reason"]) == (431, "malformed_request")


async def test_too_many_fields_are_431() -> None:
    async with world(max_head_fields=10) as w:
        assert (await w.ask(connect_head(443, headers="X: y\r\n" * 10))).status == 431


@pytest.mark.alone
async def test_a_slow_head_is_bounded_from_its_first_byte() -> None:
    async with world(head_timeout=0.3) as w:
        reader, writer = await w.connect()
        started = time.monotonic()
        answer = asyncio.ensure_future(reader.read())
        for byte in b"CONNECT a.example:443 HTTP/1.1\r\nHost":
            if answer.done():
                break
            writer.write(bytes((byte,)))
            await asyncio.sleep(0.2)
        assert Reply.read(await answer).status == 408
        assert time.monotonic() - started < 5  # all of it takes more than seven
        writer.transport.abort()


async def test_a_silent_client_is_closed_without_an_answer() -> None:
    async with world(head_timeout=0.1) as w:
        assert (await w.ask(b"")).status == 0
        assert w.audit.events == []


@pytest.mark.parametrize(
    "asked",
    [
        b"X / HTTP/1.1\r\n\r\n",
        connect_head(443, "other.example"),
        b"GET http://other.example/ HTTP/1.1\r\nHost: other.example\r\nConnection: close\r\n\r\n",
    ],
    ids=["malformed", "CONNECT", "plain"],
)
async def test_a_client_that_is_gone_when_it_is_answered_is_no_failure(asked: bytes) -> None:
    """Behind the answer it is reset, and the FIN that follows cannot be sent."""
    with capture_logs() as logs:
        async with world() as w:
            with socket.create_connection(w.listener.socket.getsockname()) as gone:
                gone.sendall(asked)
            await until(lambda: len(w.audit.verdicts) == 1)
            await w.settled()
    assert [entry for entry in logs if entry["log_level"] == "error"] == []


@pytest.mark.parametrize(
    "asked",
    [connect_head(443, "other.example"), b"GET http://other.example/ HTTP/1.0\r\nHost: other.example\r\n\r\n"],
    ids=["a tunnel", "plain HTTP"],
)
async def test_a_client_that_sends_on_behind_its_last_answer_is_cut(
    asked: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (client, kept_client):
        monkeypatch.setattr(module, "LINGER_SECONDS", 600.0)  # only the bytes can end it
    async with world() as w, asyncio.timeout(60):
        reader, writer = await w.connect()
        writer.write(asked)
        assert (await reader.read()).startswith(b"HTTP/1.1 403 ")
        with pytest.raises(ConnectionError):
            await send_on(writer)
        await w.settled()


async def send_on(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(bytes(65_536))
        await writer.drain()


async def test_a_client_that_ignores_its_answer_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "LINGER_SECONDS", 0.1)
    async with world() as w:
        _, writer = await w.connect()
        writer.write(connect_head(443, "other.example"))
        await asyncio.sleep(0.05)
        assert not w.gate.idle
        await w.settled()
        writer.transport.abort()
