"""Plain HTTP when something goes wrong or takes long: timeouts, resets, clients that leave."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from typing import cast

import pytest

from tests.proxy.plain.support import answering, client, read_message, reply, request
from tests.proxy.support import HOST, World, allow, until, upstream, world


@contextlib.asynccontextmanager
async def ticking(w: World) -> AsyncIterator[None]:
    """What the server does each second, faster."""

    async def tick() -> None:
        while True:
            await asyncio.sleep(0.02)
            w.gate.sweep()

    task = asyncio.create_task(tick())
    try:
        yield
    finally:
        task.cancel()


def look(w: World, seconds: float) -> None:
    """As the sweep will, so many seconds from now."""
    for one in tuple(w.gate._plain._clients):
        one.check(time.monotonic() + seconds)


async def test_an_upstream_that_says_nothing_is_504() -> None:
    async with (
        upstream(answering(b"")) as server,
        world(allow(HOST, server.port), response_timeout=0.1) as w,
        ticking(w),
        client(w) as (reader, writer),
    ):
        writer.write(request(server.port))
        message = await read_message(reader)
        assert (message.status, b'"phase":"response"' in message.body) == (504, True)
        await until(lambda: len(w.audit.ends) == 1)
    assert w.audit.ends[0].cause == "upstream_error:response"


async def test_a_slow_body_of_a_request_is_no_slow_response() -> None:
    nearly = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(9)
        nearly.set()
        await reader.readexactly(1)
        writer.write(reply())

    async with (
        upstream(serve) as server,
        world(allow(HOST, server.port), response_timeout=100.0) as w,
        client(w) as (reader, writer),
    ):
        data = request(server.port, method="POST", body=b"y" * 10)
        writer.write(data[:-1])
        await nearly.wait()
        look(w, 500)
        writer.write(data[-1:])
        assert (await read_message(reader)).status == 200


async def test_an_unfinished_head_is_408_and_an_idle_client_is_closed() -> None:
    async with (
        upstream(answering(reply())) as server,
        world(allow(HOST, server.port), head_timeout=0.2, keep_alive_timeout=0.4) as w,
        ticking(w),
    ):
        async with client(w) as (reader, writer):
            writer.write(request(server.port) + b"GET http")
            assert (await read_message(reader)).status == 200
            assert (await read_message(reader)).status == 408
        async with client(w) as (reader, writer):
            writer.write(request(server.port))
            assert (await read_message(reader)).status == 200
            assert await reader.read() == b""


async def test_a_reset_in_the_middle_of_a_body_is_passed_on() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_message(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\npart")
        await writer.drain()
        await asyncio.sleep(0.05)
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    async with upstream(serve) as server, world(allow(HOST, server.port)) as w:
        async with client(w) as (reader, writer):
            writer.write(request(server.port))
            # A body that ends with its connection: FIN would make the part look like the whole.
            with pytest.raises(ConnectionResetError):
                await reader.read()
        await w.settled()
    assert w.audit.ends[0].cause == "upstream_error:response"


async def test_a_client_that_vanishes_takes_its_upstream_with_it() -> None:
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        try:
            while await reader.read(65_536):
                pass
        finally:
            gone.set()

    async with upstream(serve) as server, world(allow(HOST, server.port)) as w:
        async with client(w) as (_, writer):
            writer.write(request(server.port, method="PUT", body=b"x" * 1000)[:-1])
            await until(lambda: server.connections == 1)
        async with asyncio.timeout(60):
            await gone.wait()
        await w.settled()
    assert [end.cause for end in w.audit.ends] == ["client_reset"]


async def test_a_client_that_is_not_read_and_vanishes_is_noticed() -> None:
    """Its upload waits for an upstream that takes nothing of it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        cast(asyncio.Transport, writer.transport).pause_reading()
        await asyncio.sleep(3600)

    async with upstream(serve) as server, world(allow(HOST, server.port)) as w, ticking(w):
        _, writer = await w.connect()
        writer.write(request(server.port, method="PUT", headers=f"Content-Length: {1 << 30}\r\n"))
        with contextlib.suppress(TimeoutError):
            while True:  # until nobody takes more
                writer.write(b"x" * 1_048_576)
                await asyncio.wait_for(writer.drain(), 0.5)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        writer.transport.abort()
        await w.settled()
    assert [end.cause for end in w.audit.ends] == ["client_reset"]


async def test_a_client_that_half_closes_gets_its_answer() -> None:
    async with (
        upstream(answering(reply(b"late"))) as server,
        world(allow(HOST, server.port)) as w,
        client(w) as (reader, writer),
    ):
        writer.write(request(server.port) + request(server.port))
        writer.write_eof()
        assert (await read_message(reader)).body == b"late"
        assert (await read_message(reader)).body == b"late"
        assert await reader.read() == b""


async def test_a_client_that_gave_up_does_not_hold_its_place_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    monkeypatch.setattr("cloned_proxy.proxy.plain.exchange._AFTER_FIN", 0.1)
    async with upstream(silent) as server, world(allow(HOST, server.port)) as w:
        _, writer = await w.connect()
        writer.write(request(server.port))
        await until(lambda: w.enforcer._budgets.usage(None).concurrent == 1)
        await until(lambda: bool(server.connections))
        writer.close()  # FIN, as of a client whose own timeout has passed

        def given_back() -> bool:
            w.gate.sweep()
            return w.enforcer._budgets.usage(None).concurrent == 0

        await until(given_back)


@pytest.mark.parametrize("streams", [True, False])
async def test_a_client_that_leaves_during_a_quiet_stream_is_noticed(
    monkeypatch: pytest.MonkeyPatch, *, streams: bool
) -> None:
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_message(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        try:
            await reader.read()
        finally:
            gone.set()

    monkeypatch.setattr("cloned_proxy.proxy.plain.exchange._AFTER_FIN", 0.2)
    async with upstream(serve) as server, world(allow(HOST, server.port)) as w, ticking(w):
        reader, writer = await w.connect()
        writer.write(request(server.port))
        await reader.readuntil(b"first")
        await asyncio.sleep(0.4)  # quiet, and there: it may be so for as long as it likes
        assert not gone.is_set()
        if streams:
            writer.write_eof()
        else:
            writer.close()
        async with asyncio.timeout(60):
            await gone.wait()
        await w.settled()
        writer.close()
    assert [end.cause for end in w.audit.ends] == ["client_reset"]


async def test_a_client_that_half_closes_gets_a_stream_as_long_as_that_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    go = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_message(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        await go.wait()
        writer.write(b"6\r\nsecond\r\n")
        await reader.read()

    monkeypatch.setattr("cloned_proxy.proxy.plain.exchange._AFTER_FIN", 100.0)
    async with upstream(serve) as server, world(allow(HOST, server.port)) as w:
        reader, writer = await w.connect()
        writer.write(request(server.port))
        writer.write_eof()
        await reader.readuntil(b"first")
        look(w, 99)
        await asyncio.sleep(1)
        go.set()
        await reader.readuntil(b"second")
        look(w, 99.5)
        assert w.audit.ends == []
        look(w, 100.1)
        await w.settled()
        writer.close()
    assert [end.cause for end in w.audit.ends] == ["client_reset"]
