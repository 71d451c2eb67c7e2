"""`idle:` of a rule on every path that bytes take: it cuts sooner than the setting, or later."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.proxy.plain.support import client, read_message, request
from tests.proxy.support import HOST, World, allow, hello, policy, until, upstream, world

SHORT, LONG = 0.15, 3600.0


async def begins(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The head of an event stream, and then silence."""
    await read_message(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n: hello\n\n")
    await reader.read()


@asynccontextmanager
async def quiet_flow(kind: str, *, rule: float | None, setting: float) -> AsyncIterator[World]:
    """One open flow through which nothing passes any more."""
    serve = begins if kind == "plain" else None
    async with upstream(serve) as server, world(allow(HOST, server.port, idle=rule), idle_timeout=setting) as w:
        if kind == "tunnel":
            reader, writer = await w.tunnel(server.port)
            await reader.readexactly(len(hello()))
            yield w
            writer.transport.abort()
        else:
            async with client(w) as (reader, writer):
                writer.write(request(server.port))
                await reader.readuntil(b": hello\n\n")
                yield w
        await w.settled()


@pytest.mark.parametrize("kind", ["tunnel", "plain"])
async def test_a_rule_cuts_sooner_than_the_setting(kind: str) -> None:
    async with quiet_flow(kind, rule=SHORT, setting=LONG) as w:
        await asyncio.sleep(SHORT)
        w.gate.sweep()
        await until(lambda: bool(w.audit.ends))
        assert [end.cause for end in w.audit.ends] == ["idle"]


@pytest.mark.parametrize("kind", ["tunnel", "plain"])
async def test_a_rule_lets_a_flow_be_quiet_for_longer_than_the_setting_until_it_is_edited(kind: str) -> None:
    async with quiet_flow(kind, rule=LONG, setting=SHORT) as w:
        await asyncio.sleep(SHORT)
        w.gate.sweep()
        assert len(w.gate.tunnels) == 1
        (tunnel,) = w.gate.tunnels
        w.policies.current = policy(allow(HOST, tunnel.grant.decision.request.port))
        w.gate.sweep()
        await until(lambda: bool(w.audit.ends))
        assert [end.cause for end in w.audit.ends] == ["idle"]


async def test_a_rule_with_a_long_idle_waits_as_long_for_the_head_of_a_slow_answer() -> None:
    late = asyncio.Event()

    async def thinks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_message(reader)
        await late.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with (
        upstream(thinks) as server,
        world(allow(HOST, server.port, idle=LONG), response_timeout=SHORT) as w,
        client(w) as (reader, writer),
    ):
        writer.write(request(server.port))
        await until(lambda: len(w.gate.tunnels) == 1)
        await asyncio.sleep(2 * SHORT)
        w.gate.sweep()
        late.set()
        assert (await read_message(reader)).status == 200
