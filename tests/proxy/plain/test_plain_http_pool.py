"""Upstream connections that plain requests share: for whom, for how long, and what may be sent a second time."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time

import pytest

from cloned_proxy.proxy.http1 import upstream as plain_upstream
from cloned_proxy.proxy.upstream.ways import Ways
from tests.proxy.plain.support import Message, answering, client, read_message, reply, request
from tests.proxy.support import HOST, allow, gone, policy, until, upstream, world


async def test_clients_of_one_principal_share_a_pooled_connection() -> None:
    async with upstream(answering(reply())) as server, world(allow(HOST, server.port)) as w:
        for _ in range(3):
            async with client(w) as (reader, writer):
                writer.write(request(server.port))
                assert (await read_message(reader)).status == 200
        assert server.connections == 1


@pytest.mark.parametrize(
    ("method", "size", "status"),
    [("GET", 0, 200), ("HEAD", 0, 200), ("DELETE", 0, 200), ("PUT", 0, 200), ("PUT", 65_536, 200), ("DELETE", 5, 200),
     ("PUT", 65_537, 502), ("POST", 0, 502), ("POST", 5, 502), ("PATCH", 5, 502)],
)  # fmt: skip
async def test_only_an_idempotent_and_small_request_is_sent_a_second_time(method: str, size: int, status: int) -> None:
    seen: list[Message] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await read_message(reader))
        writer.write(reply(b""))
        if len(seen) == 1:
            await reader.readuntil(b"\r\n\r\n")  # the next request finds the connection closed
            return
        await reader.read()

    async with upstream(serve) as server, world(allow(HOST, server.port)) as w, client(w) as (reader, writer):
        writer.write(request(server.port))
        assert (await read_message(reader)).status == 200
        data = request(server.port, method=method, body=b"b" * size)
        writer.write(data[: len(data) - size // 2])
        if status == 200 and size:
            await until(lambda: server.connections == 2)  # in the middle of the body
        writer.write(data[len(data) - size // 2 :])
        assert (await read_message(reader, body=False)).status == status
        assert server.connections == (2 if status == 200 else 1)
        assert [len(message.body) for message in seen] == ([0, size] if status == 200 else [0])
        await until(lambda: len(w.audit.ends) == 2)


@pytest.mark.parametrize(("method", "size"), [("POST", 5), ("PATCH", 5), ("POST", 0), ("PUT", 65_537), ("LOCK", 0)])
async def test_what_may_not_be_sent_twice_takes_no_connection_that_its_server_may_be_closing(
    method: str, size: int
) -> None:
    async with upstream(answering(reply())) as server, world(allow(HOST, server.port)) as w, client(w) as (r, writer):
        now = time.monotonic()
        w.gate._plain.pool._clock = lambda: now  # type: ignore[misc]  # Final for everybody else

        async def ask(method: str, size: int, after: float) -> int:
            """How many connections there have been, when it came so many seconds behind the last response."""
            nonlocal now
            now += after
            writer.write(request(server.port, method=method, body=b"b" * size))
            assert (await read_message(r)).status == 200
            return server.connections

        assert await ask("GET", 0, 0) == 1
        assert await ask(method, size, 0.4) == 1
        assert await ask(method, size, 0.6) == 2
        assert await ask("GET", 0, 14) == 2
        assert await ask("PUT", 5, 14) == 2


async def test_an_upstream_that_is_gone_when_it_is_reached_is_a_failed_dial(monkeypatch: pytest.MonkeyPatch) -> None:
    async def dial(*_: object, **__: object) -> socket.socket:
        return gone()

    monkeypatch.setattr(Ways, "connect", dial)
    async with world(allow(HOST, 1)) as w, client(w) as (reader, writer):
        unhandled: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
        writer.write(request(1, method="POST", body=b"body"))
        message = await read_message(reader)
        assert (message.status, b'"phase":"connect"' in message.body) == (502, True)
        assert unhandled == []


async def test_a_fresh_connection_that_breaks_is_not_tried_again() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")

    async with upstream(serve) as server, world(allow(HOST, server.port)) as w, client(w) as (reader, writer):
        writer.write(request(server.port))
        assert (await read_message(reader)).status == 502
        assert server.connections == 1


async def test_a_change_of_the_policy_closes_pooled_connections_that_no_longer_pass() -> None:
    closed = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_message(reader)
        writer.write(reply())
        with contextlib.suppress(ConnectionError):
            await reader.read()
        closed.set()

    async with upstream(serve) as server, world(allow(HOST, server.port)) as w, client(w) as (reader, writer):
        writer.write(request(server.port))
        await read_message(reader)
        w.gate.sweep()
        await asyncio.sleep(0.05)
        assert not closed.is_set()
        w.policies.current = policy()
        w.gate.sweep()
        async with asyncio.timeout(60):
            await closed.wait()
        writer.write(request(server.port))
        assert (await read_message(reader)).status == 403


async def test_a_pooled_connection_is_never_taken_for_an_address_that_was_not_checked() -> None:
    async with upstream(answering(reply())) as server, world(allow(HOST, server.port)) as w, client(w) as (r, writer):
        writer.write(request(server.port))
        await read_message(r)
        w.resolver.table[HOST] = (type(w.resolver.table[HOST][0])("127.0.0.2"),)
        writer.write(request(server.port))
        message = await read_message(r)
        assert message.status == 502, "127.0.0.2, where nobody listens, was not dialled: 127.0.0.1 was taken"


async def test_the_pool_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_upstream, "MAX_IDLE_EACH", 3)
    async with (
        upstream(answering(reply())) as server,
        world(allow(HOST, server.port)) as w,
        contextlib.AsyncExitStack() as stack,
    ):
        clients = [await stack.enter_async_context(client(w)) for _ in range(8)]
        for _, writer in clients:
            writer.write(request(server.port))
        for reader, _ in clients:
            await read_message(reader)
        assert len(w.gate._plain.pool) <= 3
