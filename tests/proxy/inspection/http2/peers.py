"""Both neighbours of the proxy in HTTP/2: a client that can be told to misbehave, and an upstream that remembers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    InformationalResponseReceived,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import H2Error
from hyperframe.frame import Frame, GoAwayFrame

from tests.proxy.inspection.support import World

type Fields = list[tuple[str, str]]

SECONDS = 60


class _Connection(H2Connection):
    """One that knows a graceful GOAWAY from the end."""

    def _receive_goaway_frame(self, frame: GoAwayFrame) -> tuple[list[Frame], list[Event]]:
        told = ConnectionTerminated()
        told.error_code, told.last_stream_id = frame.error_code, frame.last_stream_id
        return [], [told]


def _lenient(*, client_side: bool) -> H2Connection:
    """Sends what it is told to."""
    return _Connection(
        H2Configuration(
            client_side=client_side,
            header_encoding="latin-1",
            validate_inbound_headers=False,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
    )


@dataclass
class Message:
    """What has come on one stream."""

    fields: Fields = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    trailers: Fields = field(default_factory=list)
    interim: list[str] = field(default_factory=list)
    ended: bool = False
    reset: int | None = None
    over: asyncio.Event = field(default_factory=asyncio.Event)
    began: asyncio.Event = field(default_factory=asyncio.Event)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def get(self, name: str) -> str | None:
        return next((value for found, value in [*self.fields, *self.trailers] if found == name), None)

    @property
    def status(self) -> str | None:
        return self.get(":status")

    def take(self, event: Event) -> None:
        if isinstance(event, RequestReceived | ResponseReceived):
            self.fields = [(str(name), str(value)) for name, value in event.headers or []]
            self.began.set()
        elif isinstance(event, InformationalResponseReceived):
            self.interim += [str(value) for name, value in event.headers or [] if str(name) == ":status"]
        elif isinstance(event, DataReceived):
            self.body += event.data or b""
        elif isinstance(event, TrailersReceived):
            self.trailers = [(str(name), str(value)) for name, value in event.headers or []]
        elif isinstance(event, StreamEnded):
            self.ended = True
            self.over.set()
        elif isinstance(event, StreamReset):
            self.reset = int(event.error_code or 0)
            self.began.set()
            self.over.set()
        self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(SECONDS):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


class _Peer:
    """One connection: reads all the time, unless it is told to hold back its windows."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, client_side: bool) -> None:
        self.reader, self.writer = reader, writer
        self.h2 = _lenient(client_side=client_side)
        self.messages: dict[int, Message] = {}
        self.goaway: int | None = None
        self.last_stream: int | None = None
        self.closed = asyncio.Event()
        self.gone_away = asyncio.Event()
        self.opened = asyncio.Event()
        """Some window has been opened."""
        self.withheld: set[int] = set()
        """Streams whose windows are not opened again; their neighbours share the connection's."""

    async def run(self) -> None:
        with contextlib.suppress(OSError, H2Error):
            self.h2.initiate_connection()
            self.send()
            while data := await self.reader.read(65536):
                for event in self.h2.receive_data(data):
                    self.take(event)
                self.send()
        self.closed.set()
        self.opened.set()
        for message in self.messages.values():
            message.began.set()
            message.changed.set()
            message.over.set()

    def take(self, event: Event) -> None:
        if isinstance(event, ConnectionTerminated):
            self.goaway, self.last_stream = int(event.error_code or 0), event.last_stream_id
            self.gone_away.set()
        elif isinstance(event, WindowUpdated):
            self.opened.set()
        elif isinstance(event, DataReceived) and event.flow_controlled_length:
            with contextlib.suppress(H2Error):
                if event.stream_id in self.withheld:
                    self.h2.increment_flow_control_window(event.flow_controlled_length)
                else:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id or 0)
        if (message := self.messages.get(getattr(event, "stream_id", None) or 0)) is not None:
            message.take(event)

    def send(self, *frames: Frame) -> None:
        self.writer.write(self.h2.data_to_send() + b"".join(frame.serialize() for frame in frames))

    async def send_body(self, stream: int, data: bytes, *, end: bool = True) -> None:
        """As its windows allow."""
        at = 0
        while at < len(data) or not data:
            room = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size)
            if data and not room:
                self.opened.clear()
                await self.opened.wait()
                continue
            piece = data[at : at + room]
            at += len(piece)
            self.h2.send_data(stream, piece, end_stream=end and at >= len(data))
            self.send()
            await self.writer.drain()
            if not data:
                return


class Client(_Peer):
    def __init__(self, world: World, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__(reader, writer, client_side=True)
        self.world = world
        self.task: asyncio.Task[None] | None = None

    @classmethod
    async def connect(cls, world: World) -> Client:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", world.port, ssl=world.client_tls("h2"), server_hostname=world.host
        )
        client = cls(world, reader, writer)
        client.task = asyncio.create_task(client.run())
        await asyncio.sleep(0)
        return client

    def head(self, path: str = "/", *, method: str = "GET", fields: Fields | None = None) -> Fields:
        authority = self.world.authority
        pseudo = [(":method", method), (":scheme", "https"), (":authority", authority), (":path", path)]
        return pseudo + (fields or [])

    def begin(self, head: Fields, *, end: bool = True) -> int:
        stream = self.h2.get_next_available_stream_id()
        self.messages[stream] = Message()
        self.h2.send_headers(stream, head, end_stream=end)
        self.send()
        return stream

    async def ask(
        self, head: Fields | None = None, body: bytes | None = None, trailers: Fields | None = None
    ) -> Message:
        """One whole exchange."""
        stream = self.begin(head or self.head(), end=body is None and trailers is None)
        if body is not None:
            await self.send_body(stream, body, end=trailers is None)
        if trailers is not None:
            self.h2.send_headers(stream, trailers, end_stream=True)
            self.send()
        return await self.response(stream)

    async def response(self, stream: int) -> Message:
        message = self.messages[stream]
        async with asyncio.timeout(SECONDS):
            await message.over.wait()
        return message

    async def close(self) -> None:
        self.writer.transport.abort()
        if self.task is not None:
            await self.task


type Serve = Callable[["UpstreamPeer", int, Message], Awaitable[None]]


async def answer_ok(peer: UpstreamPeer, stream: int, message: Message) -> None:
    """Behind the end of the request."""
    await message.over.wait()
    if message.ended:
        peer.h2.send_headers(stream, [(":status", "200"), ("content-length", "2")])
        peer.h2.send_data(stream, b"ok", end_stream=True)
        peer.send()


class UpstreamPeer(_Peer):
    def __init__(self, upstream: Upstream2, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__(reader, writer, client_side=False)
        self.upstream = upstream
        upstream.prepare(self)

    def take(self, event: Event) -> None:
        if isinstance(event, RequestReceived):
            message = self.messages[event.stream_id or 0] = Message()
            self.upstream.requests.append(message)
            super().take(event)
            self.upstream.tasks.append(asyncio.ensure_future(self.upstream.serve(self, event.stream_id or 0, message)))
            self.upstream.asked.set()
        else:
            super().take(event)


class Upstream2:
    """For `World.upstream.reply`."""

    def __init__(self) -> None:
        self.requests: list[Message] = []
        """In the order of their heads."""
        self.peers: list[UpstreamPeer] = []
        self.serve: Serve = answer_ok
        self.prepare: Callable[[UpstreamPeer], None] = lambda _: None
        self.asked = asyncio.Event()
        self.tasks: list[asyncio.Future[None]] = []

    async def reply(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = UpstreamPeer(self, reader, writer)
        self.peers.append(peer)
        await peer.run()

    @property
    def text(self) -> str:
        """All that has reached it, as text."""
        lines = [f"{name}: {value}" for message in self.requests for name, value in message.fields + message.trailers]
        return "\n".join(lines) + "".join(message.body.decode("latin-1") for message in self.requests)
