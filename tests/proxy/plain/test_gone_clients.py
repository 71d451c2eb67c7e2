"""Peers that go in the same turn of the loop in which something is written for them: that is no failure of ours."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from cloned_proxy.proxy.plain.client import PlainClient
from cloned_proxy.proxy.plain.exchange import PlainExchange
from cloned_proxy.proxy.wire.body import BodyError
from tests.proxy.plain.support import client, request
from tests.proxy.support import HOST, allow, until, upstream, world


async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read()


def upstream_reset(exchange: PlainExchange) -> None:
    exchange.upstream_ended(broken=True)


def answered(exchange: PlainExchange) -> None:
    exchange.response_bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


def malformed(exchange: PlainExchange) -> None:
    exchange.refuse_body(BodyError("a chunk is longer than its size says"))


@pytest.mark.parametrize("behind", [upstream_reset, answered, malformed])
async def test_a_client_that_went_a_moment_before_its_answer_is_no_failure(
    behind: Callable[[PlainExchange], None],
) -> None:
    async with (
        upstream(silent) as server,
        world(allow(HOST, server.port)) as w,
        client(w) as (_, writer),
    ):
        writer.write(request(server.port, method="POST", body=b"x" * 10))
        await until(lambda: server.connections == 1)
        (plain,) = w.gate._plain._clients
        exchange = plain._exchange
        assert isinstance(plain, PlainClient)
        assert isinstance(exchange, PlainExchange)
        await until(lambda: exchange._outgoing.upstream is not None)
        with capture_logs() as told:
            plain.transport.abort()  # as the loop does that finds it reset; the client is told of it a turn later
            behind(exchange)
            await w.settled()
    assert [each["event"] for each in told if each["log_level"] == "error"] == []
    assert len(w.audit.ends) == 1


async def test_an_upstream_that_went_a_moment_before_more_of_a_body_is_a_502() -> None:
    async with (
        upstream(silent) as server,
        world(allow(HOST, server.port)) as w,
        client(w) as (reader, writer),
    ):
        writer.write(request(server.port, method="POST", body=b"x" * 10)[:-5])
        await until(lambda: server.connections == 1)
        (plain,) = w.gate._plain._clients
        exchange = plain._exchange
        assert isinstance(exchange, PlainExchange)
        await until(lambda: exchange._outgoing.upstream is not None)
        with capture_logs() as told:
            assert exchange._outgoing.upstream is not None
            exchange._outgoing.upstream.transport.abort()
            plain.data_received(b"12345")
            assert (await reader.readline()).startswith(b"HTTP/1.1 502 ")
    assert [each["event"] for each in told if each["log_level"] == "error"] == []
