"""Plain HTTP when something goes wrong or takes long: faults, timeouts, memory, pool, revocation, WebSocket."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
import time
from collections.abc import AsyncIterator
from typing import cast

import pytest
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_websocket
from websockets.client import ClientProtocol
from websockets.frames import Frame
from websockets.http11 import Response
from websockets.protocol import State
from websockets.uri import parse_uri

from cloned_proxy.proxy import plain
from cloned_proxy.proxy.http1 import incoming, outgoing
from cloned_proxy.proxy.http1 import upstream as plain_upstream
from cloned_proxy.proxy.plain import admission, reach
from cloned_proxy.proxy.upstream.ways import Ways
from tests.proxy.plain.support import Message, answering, client, read_message, reply, request
from tests.proxy.support import HOST, World, allow, gone, policy, until, upstream, world


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
    async with (
        upstream(answering(reply())) as server,
        world(allow(HOST, server.port), response_timeout=0.1) as w,
        ticking(w),
        client(w) as (reader, writer),
    ):
        data = request(server.port, method="POST", body=b"x" * 10)
        for at in range(len(data) - 10, len(data)):
            writer.write(data[:at] if at == len(data) - 10 else data[at - 1 : at])
            await asyncio.sleep(0.03)
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
        async with asyncio.timeout(5):
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


# Memory.


def stop_reading(writer: asyncio.StreamWriter) -> None:
    cast(asyncio.Transport, writer.transport).pause_reading()


@pytest.mark.parametrize("direction", ["down", "up"])
async def test_a_slow_reader_holds_a_fast_writer(direction: str) -> None:
    total, moved = 64 * 1_048_576, 0

    async def source(writer: asyncio.StreamWriter) -> None:
        nonlocal moved
        piece = b"z" * 65_536
        while moved < total:
            writer.write(piece)
            await writer.drain()
            moved += len(piece)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if direction == "down":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
            await source(writer)
        await asyncio.sleep(3600)

    async with upstream(serve) as server, world(allow(HOST, server.port)) as w, client(w) as (_, writer):
        task = None
        if direction == "up":
            writer.write(request(server.port, method="PUT", headers=f"Content-Length: {total}\r\n"))
            task = asyncio.create_task(source(writer))
        else:
            writer.write(request(server.port))
            stop_reading(writer)
        before = -1
        while before != moved:
            before = moved
            await asyncio.sleep(0.3)
        # What is on the way is in the buffers of the kernel and in a few of ours.
        assert 0 < moved < total / 2
        if task is not None:
            task.cancel()


async def test_a_client_that_pipelines_and_does_not_read_is_not_served_further() -> None:
    async with (
        upstream(answering(reply(b"r" * 100_000))) as server,
        world(allow(HOST, server.port)) as w,
        client(w) as (_, writer),
    ):
        stop_reading(writer)
        writer.write(request(server.port) * 2000)
        served = -1
        while served != len(w.audit.verdicts):
            served = len(w.audit.verdicts)
            await asyncio.sleep(0.3)
        assert 0 < served < 500


# Early and interim answers.


async def test_expect_100_continue_is_the_upstreams_to_answer() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"expect: 100-continue" in head
        writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
        writer.write(reply(await reader.readexactly(4)))

    async with upstream(serve) as server, world(allow(HOST, server.port)) as w, client(w) as (reader, writer):
        data = request(server.port, method="PUT", headers="Expect: 100-continue\r\n", body=b"body")
        writer.write(data[:-4])
        assert (await read_message(reader, body=False)).one("link") == "</a>"
        assert (await read_message(reader, body=False)).status == 100
        writer.write(data[-4:])
        assert (await read_message(reader)).body == b"body"


async def test_a_final_answer_instead_of_100_ends_the_connection() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply(b"no", "417 Expectation Failed"))
        assert await reader.read() == b""

    async with upstream(serve) as server, world(allow(HOST, server.port)) as w, client(w) as (reader, writer):
        writer.write(request(server.port, method="PUT", headers="Expect: 100-continue\r\n", body=b"body")[:-4])
        message = await read_message(reader)
        assert (message.status, message.one("connection")) == (417, "close")
        # Whether what comes now is the body or the next request, nobody can tell.
        writer.write(request(server.port))
        assert await reader.read() == b""
        assert len(w.audit.verdicts) == 1


async def test_an_early_answer_does_not_stop_the_request() -> None:
    digest = hashlib.sha256()
    body = b"0123456789" * 30_000

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        digest.update(await reader.readexactly(10))
        writer.write(reply(b"early"))
        await writer.drain()
        digest.update(await reader.readexactly(len(body) - 10))
        await read_message(reader)
        writer.write(reply(b"next"))

    async with upstream(serve) as server, world(allow(HOST, server.port)) as w, client(w) as (reader, writer):
        data = request(server.port, method="PUT", body=body)
        writer.write(data[: -len(body) + 10])
        assert (await read_message(reader)).body == b"early"
        writer.write(data[-len(body) + 10 :] + request(server.port))
        assert (await read_message(reader)).body == b"next"
        assert digest.digest() == hashlib.sha256(body).digest()


async def test_an_early_answer_of_an_upstream_that_leaves_arrives_whole() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply(b"too large", "413 Content Too Large", "Connection: close\r\n"))
        await writer.drain()
        writer.close()

    async with upstream(serve) as server, world(allow(HOST, server.port)) as w, client(w) as (reader, writer):
        writer.write(request(server.port, method="PUT", headers="Content-Length: 9999999\r\n") + b"x" * 1000)
        assert (await read_message(reader)).body == b"too large"
        assert await reader.read() == b""


# The pool.


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
        async with asyncio.timeout(10):
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

    def look(seconds: float) -> None:
        """As the sweep will, so many seconds from now."""
        for one in tuple(w.gate._plain._clients):
            one.check(time.monotonic() + seconds)

    monkeypatch.setattr("cloned_proxy.proxy.plain.exchange._AFTER_FIN", 100.0)
    async with upstream(serve) as server, world(allow(HOST, server.port)) as w:
        reader, writer = await w.connect()
        writer.write(request(server.port))
        writer.write_eof()
        await reader.readuntil(b"first")
        look(99)
        await asyncio.sleep(1)
        go.set()
        await reader.readuntil(b"second")
        look(99.5)
        assert w.audit.ends == []
        look(100.1)
        await w.settled()
        writer.close()
    assert [end.cause for end in w.audit.ends] == ["client_reset"]


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
        async with asyncio.timeout(10):
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


# Revocation and drain.


async def test_a_revoked_request_is_reset_within_a_sweep() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_message(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nstreaming")
        await reader.read()

    async with upstream(serve) as server, world(allow(HOST, server.port)) as w, client(w) as (reader, writer):
        writer.write(request(server.port))
        await reader.readuntil(b"streaming")
        assert len(w.gate.tunnels) == 1
        w.policies.current = policy()
        w.gate.sweep()
        with pytest.raises(ConnectionResetError):
            await reader.read()
        await w.settled()
    assert [end.cause for end in w.audit.ends] == ["revoked:host_not_allowed"]


async def test_a_revoked_request_without_an_answer_yet_is_told_why() -> None:
    reached = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_message(reader)
        reached.set()
        await reader.read()

    async with upstream(serve) as server, world(allow(HOST, server.port)) as w, client(w) as (reader, writer):
        writer.write(request(server.port))
        await reached.wait()
        w.policies.current = policy()
        w.gate.sweep()
        head = await reader.readuntil(b"\r\n\r\n")
        writer.close()
        await w.settled()
    assert head.startswith(b"HTTP/1.1 403 ")
    assert b"X-Cloned-Proxy-Reason: host_not_allowed" in head
    assert [end.cause for end in w.audit.ends] == ["revoked:host_not_allowed"]


async def test_a_stopping_gate_cuts_idle_clients_and_finishes_open_requests() -> None:
    go = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_message(reader)
        await go.wait()
        writer.write(reply(b"finished"))
        await reader.read()

    async with (
        upstream(serve) as server,
        world(allow(HOST, server.port)) as w,
        client(w) as (busy, writer),
        client(w) as (idle, other),
    ):
        other.write(b"GET / HTTP/1.1\r\n\r\n")
        await idle.read()
        writer.write(request(server.port))
        await until(lambda: server.connections == 1)
        draining = asyncio.create_task(w.gate.drain(5))
        await asyncio.sleep(0.05)
        go.set()
        message = await read_message(busy)
        assert (message.body, message.one("connection")) == (b"finished", "close")
        writer.close()
        await draining


# Breaking the steps: whatever fails, nothing goes up and nothing hangs.


def raising(*args: object, **kwargs: object) -> object:
    raise RuntimeError("broken on purpose")


BREAKABLE: dict[str, tuple[object, str]] = {
    "identify": (admission, "identify"),
    "the exchange": (admission, "PlainExchange"),
    "the dial": (reach, "connect"),
    "the head": (outgoing, "encode_request"),
    "the client": (plain, "PlainClient"),
}


@pytest.mark.parametrize(("owner", "name"), BREAKABLE.values(), ids=BREAKABLE.keys())
async def test_a_broken_step_closes_and_forwards_nothing(
    owner: object, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, name, raising)
    async with upstream() as server, world(allow(HOST, server.port)) as w, client(w) as (reader, writer):
        writer.write(request(server.port))
        with pytest.raises(ConnectionResetError):
            await reader.read()
        await w.settled()
    assert server.received == b""


@pytest.mark.parametrize("name", ["parse_response", "trailers_of"])
async def test_a_broken_reader_of_responses_passes_nothing_for_whole(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incoming, name, raising)
    chunks = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"
    async with upstream(answering(chunks)) as server, world(allow(HOST, server.port)) as w, client(w) as (r, writer):
        writer.write(request(server.port))
        with pytest.raises(ConnectionResetError):
            await r.read()
        await w.settled()
        assert [end.cause for end in w.audit.ends] == ["internal_error"]


# WebSocket.


@contextlib.asynccontextmanager
async def echo_server() -> AsyncIterator[int]:
    async def handle(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async with serve_websocket(handle, "127.0.0.1", 0) as server:
        yield next(iter(server.sockets)).getsockname()[1]


def upgrade(port: int) -> tuple[ClientProtocol, bytes]:
    """The library's own client, whose request is in absolute form: its proxy support knows CONNECT only."""
    protocol = ClientProtocol(parse_uri(f"ws://{HOST}:{port}/"))
    opening = protocol.connect()
    opening.path = f"http://{HOST}:{port}/"
    protocol.send_request(opening)
    return protocol, b"".join(protocol.data_to_send())


async def receive(protocol: ClientProtocol, reader: asyncio.StreamReader, count: int) -> list[object]:
    events: list[object] = []
    async with asyncio.timeout(5):
        while len(events) < count:
            protocol.receive_data(await reader.read(65_536))
            events += protocol.events_received()
    return events


async def test_websockets_through_the_proxy() -> None:
    async with echo_server() as port, world(allow(HOST, port)) as w, client(w) as (reader, writer):
        protocol, opening = upgrade(port)
        writer.write(opening)
        (accepted,) = await receive(protocol, reader, 1)
        assert isinstance(accepted, Response)
        assert protocol.state is State.OPEN, protocol.handshake_exc
        assert w.metrics.open == 1
        for size in (0, 5, 126, 70_000, 900_000):
            protocol.send_binary(b"m" * size)
            writer.writelines(protocol.data_to_send())
            (frame,) = await receive(protocol, reader, 1)
            assert isinstance(frame, Frame)
            assert frame.data == b"m" * size
        protocol.send_close()
        writer.writelines(protocol.data_to_send())
        await reader.read()
        writer.close()
        await w.settled()
    assert [end.cause for end in w.audit.ends] == ["closed"]
    assert w.audit.ends[0].bytes_up > 970_000


async def test_bytes_sent_before_and_with_the_101_are_relayed() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: WebSocket\r\n\r\nat once")
        writer.write(await reader.readexactly(5))

    async with upstream(serve) as server, world(allow(HOST, server.port)) as w, client(w) as (reader, writer):
        writer.write(upgrade(server.port)[1] + b"eager")
        assert (await reader.read()).endswith(b"\r\n\r\nat onceeager")


async def test_a_refused_upgrade_is_a_response_like_any_other() -> None:
    async with (
        upstream(answering(reply(b"no", "403 Forbidden"))) as server,
        world(allow(HOST, server.port)) as w,
        client(w) as (reader, writer),
    ):
        for _ in range(2):
            writer.write(upgrade(server.port)[1])
            assert (await read_message(reader)).body == b"no"


async def test_a_revoked_websocket_is_reset() -> None:
    async with echo_server() as port, world(allow(HOST, port)) as w, client(w) as (reader, writer):
        writer.write(upgrade(port)[1])
        assert (await read_message(reader, body=False)).status == 101
        w.policies.current = policy()
        w.gate.sweep()
        with pytest.raises(ConnectionResetError):
            await reader.read()
        await w.settled()
    assert [end.cause for end in w.audit.ends] == ["revoked:host_not_allowed"]
