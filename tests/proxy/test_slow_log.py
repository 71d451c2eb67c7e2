"""A log that is slower than its callers: whoever floods it waits, nobody is refused for it, nobody else waits."""

from __future__ import annotations

import asyncio
import time

import pytest

from cloned_proxy.policy.callers.identity import Claims, mint_token
from cloned_proxy.proxy.transport.reset import reset
from cloned_proxy.telemetry.events import DecisionEvent
from tests.proxy.support import HOST, KEY, allow, connect_head, hello, until, upstream, world

_MALFORMED = b"GET http://x/ HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n"
_FLOODS = {
    "a refused CONNECT": (connect_head(443, "evil.example.net"), 403),
    "a refused request": (
        b"GET http://evil.example.net/ HTTP/1.1\r\nHost: evil.example.net\r\nConnection: close\r\n\r\n",
        403,
    ),
    "a forged credential": (connect_head(443, headers="X-Cloned-Tool-Token: forged\r\n"), 407),
    "bytes that are no HTTP": (b"\x16\x03\x01\r\n\r\n", 400),
    "a malformed head": (_MALFORMED, 400),
    "a malformed head behind a good one": (
        b"GET http://evil.example.net/ HTTP/1.1\r\nHost: evil.example.net\r\n\r\n" + _MALFORMED,
        403,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", _FLOODS)
async def test_who_is_behind_waits_and_is_answered_as_ever(name: str) -> None:
    data, status = _FLOODS[name]
    async with world() as w:
        w.audit.slow_for = {None}
        answer = asyncio.create_task(w.ask(data))
        await until(lambda: w.audit.waiting > 0)
        assert not w.audit.events
        assert not answer.done()
        w.audit.disk.set()
        assert (await answer).status == status
        assert w.audit.events


async def test_nobody_waits_for_somebody_elses_flood() -> None:
    token = mint_token(KEY, Claims("demo@v1", "run-1", time.time() + 60))
    async with upstream() as server, world(allow(HOST, server.port)) as w:
        w.audit.slow_for = {None}
        flood = [asyncio.create_task(w.ask(connect_head(443, "evil.example.net"))) for _ in range(20)]
        await until(lambda: w.audit.waiting == 20)
        reader, writer = await w.tunnel(server.port, headers=f"X-Cloned-Tool-Token: {token}\r\n")
        assert await reader.readexactly(len(hello()))
        writer.transport.abort()
        assert not any(task.done() for task in flood)
        w.audit.disk.set()
        assert {reply.status for reply in await asyncio.gather(*flood)} == {403}


async def test_a_long_pipeline_does_not_keep_the_others_waiting() -> None:
    flood = b"GET http://evil.example.net/ HTTP/1.1\r\nHost: evil.example.net\r\n\r\n"
    async with world() as w:
        await w.ask(connect_head(443, "first.example.net"))
        reader, pipeline = await w.connect()
        _, other = await w.connect()
        pipeline.write(flood * 500)
        other.write(connect_head(443, "quiet.example.net"))
        await reader.readuntil(b"\r\n\r\n")
        await until(lambda: len(w.audit.events) == 502)
        hosts = [event.host for event in w.audit.events if isinstance(event, DecisionEvent)]
        assert hosts.index("quiet.example.net") < 300
        pipeline.transport.abort()
        other.transport.abort()


async def test_a_flooder_whose_log_fails_is_refused_for_that() -> None:
    async with upstream() as server, world(allow(HOST, server.port), known=False) as w:
        w.audit.slow_for = {None}
        answer = asyncio.create_task(w.ask(connect_head(server.port)))
        await until(lambda: w.audit.waiting > 0)
        w.audit.broken = True
        w.audit.disk.set()
        assert (await answer).status == 503
        assert server.connections == 0


@pytest.mark.parametrize("name", _FLOODS)
async def test_a_client_that_leaves_while_it_waits_leaves_nothing(name: str) -> None:
    async with world() as w:
        w.audit.slow_for = {None}
        _, writer = await w.connect()
        writer.write(_FLOODS[name][0])
        await until(lambda: w.audit.waiting > 0)
        reset(writer.transport)
        await w.settled()
        w.audit.disk.set()
