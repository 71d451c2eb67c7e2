"""Plain HTTP clients and servers for tests: raw bytes on both sides."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from cloned_proxy.proxy.wire.body import Buffer, ChunkedBody
from tests.proxy.support import HOST, Handler, World


def request(
    port: int, path: str = "/", *, method: str = "GET", headers: str = "", body: bytes = b"", version: str = "1.1"
) -> bytes:
    if body and "transfer-encoding" not in headers.lower():
        headers += f"Content-Length: {len(body)}\r\n"
    head = f"{method} http://{HOST}:{port}{path} HTTP/{version}\r\nHost: {HOST}:{port}\r\n{headers}\r\n"
    return head.encode() + body


@dataclass
class Message:
    line: str
    fields: list[tuple[str, str]]
    body: bytes = b""
    trailers: list[bytes] = field(default_factory=list)

    @property
    def status(self) -> int:
        return int(self.line.split(" ")[1])

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key.lower() == name]

    def one(self, name: str) -> str:
        (value,) = self.all(name)
        return value


async def read_message(reader: asyncio.StreamReader, *, body: bool = True, patience: float = 60) -> Message:
    """One message as its own framing says; a request without framing has no body, a response ends with FIN."""
    async with asyncio.timeout(patience):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
        message = Message(line, [(name, value) for name, _, value in (text.partition(": ") for text in lines)])
        if not body:
            return message
        if message.all("transfer-encoding") == ["chunked"]:
            await _read_chunks(reader, message)
        elif message.all("content-length"):
            message.body = await reader.readexactly(int(message.one("content-length")))
        elif line.startswith("HTTP/"):
            message.body = await reader.read()
        return message


async def _read_chunks(reader: asyncio.StreamReader, message: Message) -> None:
    chunks, buffer, pieces = ChunkedBody(), Buffer(), []
    while (piece := chunks.read(buffer)) is not None:
        if piece:
            pieces.append(piece)
        else:
            buffer += await reader.readuntil(b"\n")  # never a byte of the next message
    message.body, message.trailers = b"".join(pieces), chunks.trailers


def answering(*responses: bytes, seen: list[Message] | None = None, close: bool = False) -> Handler:
    """A server that reads one request after the other and answers with these bytes, the last one again and again."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        count = 0
        while True:
            message = await read_message(reader)
            if seen is not None:
                seen.append(message)
            writer.write(responses[min(count, len(responses) - 1)])
            count += 1
            if close:
                await writer.drain()
                writer.write_eof()
                await reader.read()
                return

    return handle


def reply(body: bytes = b"ok", status: str = "200 OK", headers: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


@contextlib.asynccontextmanager
async def client(w: World) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await w.connect()
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def ticking(w: World) -> None:
    """What the server does each second, faster."""
    while True:
        await asyncio.sleep(0.02)
        w.gate.sweep()
