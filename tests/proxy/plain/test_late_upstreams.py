"""A connection that was being made while its exchange ended: what it says is no answer to the next request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from cloned_proxy.proxy.plain.exchange import PlainExchange
from tests.proxy.plain.support import client, read_message, request
from tests.proxy.support import HOST, allow, policy, until, upstream, world

CANARY = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\ncanary"


async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read()


def answers(exchange: PlainExchange) -> None:
    exchange.response_bytes(CANARY)


def breaks(exchange: PlainExchange) -> None:
    exchange.upstream_ended(broken=True)


@pytest.mark.parametrize("late", [answers, breaks])
async def test_what_comes_behind_a_revoked_exchange_is_told_to_nobody(
    late: Callable[[PlainExchange], None],
) -> None:
    async with (
        upstream(silent) as server,
        world(allow(HOST, server.port)) as w,
        client(w) as (reader, writer),
    ):
        writer.write(request(server.port))
        await until(lambda: server.connections == 1)
        (plain,) = w.gate._plain._clients
        exchange = plain._exchange
        assert isinstance(exchange, PlainExchange)
        await until(lambda: exchange._outgoing.upstream is not None)
        w.policies.current = policy()
        w.gate.sweep()
        assert (await read_message(reader)).status == 403
        late(exchange)
        writer.write(request(server.port))
        assert (await read_message(reader)).status == 403
        writer.close()
        await w.settled()
    assert len(w.audit.ends) == 1
