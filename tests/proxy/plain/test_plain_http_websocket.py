"""WebSockets that begin as plain HTTP: upgraded, refused, revoked."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_websocket
from websockets.client import ClientProtocol
from websockets.frames import Frame
from websockets.http11 import Response
from websockets.protocol import State
from websockets.uri import parse_uri

from tests.proxy.plain.support import answering, client, read_message, reply
from tests.proxy.support import HOST, allow, policy, upstream, world


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
    async with asyncio.timeout(60):
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


async def test_what_a_server_says_before_the_101_comes_before_it() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        switching = b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: WebSocket\r\n\r\n"
        writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + switching + b"frames")

    async with upstream(serve) as server, world(allow(HOST, server.port)) as w, client(w) as (reader, writer):
        writer.write(upgrade(server.port)[1])
        hints, accepted, frames = (await reader.readuntil(b"frames")).split(b"\r\n\r\n")
    assert hints.startswith(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n")
    assert accepted.startswith(b"HTTP/1.1 101 Switching\r\n")
    assert frames == b"frames"


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
