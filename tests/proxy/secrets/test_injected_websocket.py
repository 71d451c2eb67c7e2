"""A WebSocket under a rule that injects, on plain HTTP: a real server of the library `websockets`, its client's bytes.

No client of ours sends `ws://` in absolute form through a proxy, so the client is the library's without its sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from http import HTTPStatus

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.uri import parse_uri

from cloned_proxy.policy.terms.rule import Inject
from cloned_proxy.proxy.plain import websocket
from cloned_proxy.proxy.secrets.echo import EchoFilter
from cloned_proxy.proxy.secrets.frames import EchoGuard
from tests.proxy.plain.support import Message, read_message
from tests.proxy.support import HOST, Secrets, World, allow, world

CANARY = "sk-canary/4f+9="
BEARER = Inject("Authorization", "Bearer ${vault:llm.api_key}")
BOUND = 60

type Handler = Callable[[ServerConnection], Awaitable[None]]


@dataclass
class Scene:
    world: World
    port: int
    requests: list[Request]

    @contextlib.asynccontextmanager
    async def open(self, headers: str = "") -> AsyncIterator[Client]:
        reader, writer = await self.world.connect()
        protocol = ClientProtocol(
            parse_uri(f"ws://{HOST}:{self.port}/chat"), extensions=[ClientPerMessageDeflateFactory()], max_size=None
        )
        protocol.send_request(protocol.connect())
        (head,) = protocol.data_to_send()
        head = head.replace(b"GET /chat", f"GET http://{HOST}:{self.port}/chat".encode())
        writer.write(head.replace(b"\r\n\r\n", b"\r\n" + headers.encode() + b"\r\n"))
        try:
            yield Client(protocol, reader, writer)
        finally:
            writer.transport.abort()


@dataclass
class Client:
    protocol: ClientProtocol
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    received: bytes = b""

    async def frames(self, until: Callable[[list[Frame]], bool]) -> list[Frame]:
        """All that has come when that is so, or the connection has ended."""
        found: list[Frame] = []
        async with asyncio.timeout(BOUND):
            while not until(found) and (data := await self.reader.read(65_536)):
                self.received += data
                self.protocol.receive_data(data)
                found += [event for event in self.protocol.events_received() if isinstance(event, Frame)]
        return found

    async def answer(self) -> Message:
        return await read_message(self.reader, body=False)

    def send(self, text: bytes) -> None:
        """Behind the upgrade at once, as a client may not, and what waits in a buffer meanwhile must arrive too."""
        self.writer.write(Frame(Opcode.TEXT, text).serialize(mask=True))


@contextlib.asynccontextmanager
async def scene(handler: Handler, inject: Inject = BEARER, process: object = None) -> AsyncIterator[Scene]:
    requests: list[Request] = []

    async def serving(connection: ServerConnection) -> None:
        assert connection.request is not None
        requests.append(connection.request)
        await handler(connection)

    async with serve(serving, "127.0.0.1", 0, process_response=process, close_timeout=0.1) as server:  # type: ignore[arg-type]
        port = next(iter(server.sockets)).getsockname()[1]
        secrets = Secrets(**{"llm.api_key": CANARY})
        async with world(allow(HOST, port, inject=inject), secrets=secrets) as w:
            yield Scene(w, port, requests)


async def parrot(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


async def test_the_upgrade_carries_the_secret_and_no_compression_is_agreed_on() -> None:
    async with scene(parrot) as s, s.open("Authorization: Bearer mine\r\n") as client:
        client.send(b"hello")
        frames = await client.frames(bool)
        assert [(frame.opcode, bytes(frame.data)) for frame in frames] == [(Opcode.TEXT, b"hello")]
        assert b"extensions" not in client.received.lower()
    (request,) = s.requests
    assert request.headers.get_all("Authorization") == [f"Bearer {CANARY}"]
    assert "Sec-WebSocket-Extensions" not in request.headers


async def test_what_the_server_repeats_ends_in_a_close_frame_and_on_record() -> None:
    async def tell(connection: ServerConnection) -> None:
        await connection.send("first")
        await connection.send(["your key is ", CANARY[:5], CANARY[5:]])
        await connection.wait_closed()

    async with scene(tell) as s, s.open() as client:
        frames = await client.frames(lambda _: client.protocol.close_rcvd is not None)
        assert await client.reader.read() == b""
        await s.world.settled()
        assert [end.cause for end in s.world.audit.ends] == ["refused:secret_echoed"]
    assert [bytes(frame.data) for frame in frames[:2]] == [b"first", b"your key is "]
    close = client.protocol.close_rcvd
    assert close is not None
    assert (close.code, close.reason.partition(":")[0]) == (1008, "secret_echoed")
    assert CANARY[:5].encode() not in client.received


async def test_the_head_of_the_101_is_redacted() -> None:
    def process(connection: ServerConnection, request: Request, response: Response) -> Response:
        response.headers["X-Seen"] = request.headers["Authorization"]
        return response

    async with scene(parrot, process=process) as s, s.open() as client:
        message = await client.answer()
    assert (message.status, message.all("x-seen")) == (101, ["[redacted]"])


async def test_a_server_that_compresses_unasked_is_a_bad_gateway() -> None:
    def process(connection: ServerConnection, request: Request, response: Response) -> Response:
        response.headers["Sec-WebSocket-Extensions"] = "permessage-deflate"
        return response

    async with scene(parrot, process=process) as s, s.open() as client:
        message = await client.answer()
        assert (message.status, message.all("x-cloned-proxy-reason")) == (HTTPStatus.BAD_GATEWAY, ["secret_echoed"])
        assert [end.cause for end in s.world.audit.ends] == ["refused:secret_echoed"]


async def test_without_redact_echo_the_two_agree_on_what_they_like() -> None:
    async with scene(parrot, replace(BEARER, redact_echo=False)) as s, s.open() as client:
        assert "permessage-deflate" in (await client.answer()).one("sec-websocket-extensions")
        (request,) = s.requests
        assert request.headers["Authorization"] == f"Bearer {CANARY}"


async def test_bulk_through_the_search_arrives_whole() -> None:
    body = bytes(range(256)) * 8000
    async with scene(lambda connection: connection.send(body)) as s, s.open() as client:
        frames = await client.frames(lambda found: sum(len(frame.data) for frame in found) >= len(body))
        assert b"".join(bytes(frame.data) for frame in frames if frame.opcode is not Opcode.CLOSE) == body
        assert s.requests


# Each guard taken out: the attack that it stops is real.


async def test_control_without_the_search_the_secret_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "EchoGuard", lambda secrets: None)
    async with scene(lambda connection: connection.send(CANARY)) as s, s.open() as client:
        frame, *_ = await client.frames(bool)
        assert s.requests
    assert bytes(frame.data) == CANARY.encode()


async def test_control_with_its_extensions_the_secret_comes_back_compressed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloned_proxy.proxy.secrets.injection._UNREADABLE", frozenset())
    monkeypatch.setattr("cloned_proxy.proxy.http1.screen._EXTENSIONS", b"")
    monkeypatch.setattr("cloned_proxy.proxy.secrets.frames._RSV", 0)
    seen: list[bytes] = []

    class Watching(EchoGuard):
        def from_server(self, data: bytes) -> bytes:
            seen.append(passed := super().from_server(data))
            return passed

    monkeypatch.setattr(websocket, "EchoGuard", Watching)
    async with scene(lambda connection: connection.send(CANARY * 9)) as s, s.open() as client:
        await client.frames(lambda found: bool(seen) and bool(found))
        assert s.requests
    assert not EchoFilter([CANARY]).finds(b"".join(seen))
    assert len(b"".join(seen)) > len(CANARY)
