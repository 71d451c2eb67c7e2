"""An upstream that ends each request as its path says (`/DEED/WHEN/NUMBER`), and writes down what it got of it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass
from typing import Final

from cloned_proxy.proxy.wire.body import Buffer, ChunkedBody
from tests.proxy.plain.support import Message, read_message

SECRET: Final = "sk-canary/4f+9="
"""What the rule for `/echo` injects, and the answer repeats."""
_RESET: Final = struct.pack("ii", 1, 0)
_PART: Final = 100


def _response(status: int, body: str, fields: str = "") -> bytes:
    return f"HTTP/1.1 {status} Such\r\nContent-Length: {len(body)}\r\n{fields}\r\n{body}".encode()


_SAYS: Final = {
    "ok": _response(200, "ok"),
    "evil": _response(200, "evil"),
    "early": _response(413, "early"),
    "early-fin": _response(413, "early", "Connection: close\r\n"),
    "early-reset": _response(413, "early", "Connection: close\r\n"),
    "echo": _response(200, SECRET),
    "garbage": b"nonsense\r\n\r\n",
    "interim-garbage": b"HTTP/1.1 100 Continue\r\n\r\nnonsense\r\n\r\n",
    "interim-reset": b"HTTP/1.1 100 Continue\r\n\r\n",
    "torn": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart of it",
    "interim-torn": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart of it",
}
_RESETS: Final = frozenset({"reset", "interim-reset", "torn", "interim-torn", "early-reset"})
_ENDS: Final = frozenset({"fin", "early-fin"})
_GOES_ON: Final = frozenset({"ok", "evil", "early"})


@dataclass(slots=True)
class Arrival:
    """One request, as far as it has come."""

    line: str
    body: bytes = b""


class Trouble:
    """The handler of its connections."""

    def __init__(self) -> None:
        self.seen: list[Arrival] = []
        self.asked_for_a_cut = asyncio.Event()
        """Somebody is to revoke what allows the request that is here."""

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, TimeoutError):
            while await self._serve_one(reader, writer):
                pass

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection goes on."""
        message = await read_message(reader, body=False)
        arrival = Arrival(message.line)
        self.seen.append(arrival)
        _, deed, when, _ = message.line.split(" ")[1].split("/")
        body = _Body(message, arrival, reader)
        if when != "head":
            await body.read(_PART if when == "part" else None)
        writer.write(_SAYS.get(deed, b""))
        await writer.drain()
        if deed == "cut":
            self.asked_for_a_cut.set()
        if deed in _RESETS:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()
            return False
        if deed in _ENDS:
            writer.write_eof() if writer.can_write_eof() else writer.close()
        if deed not in _GOES_ON:
            await reader.read()  # until the proxy gives up
            return False
        await body.read(None)
        return True


class _Body:
    """Reads the body of a request into its arrival, and never a byte of the next one."""

    def __init__(self, message: Message, arrival: Arrival, reader: asyncio.StreamReader) -> None:
        self._arrival = arrival
        self._reader = reader
        self._chunks = ChunkedBody() if message.all("transfer-encoding") else None
        self._buffer = Buffer()
        self._ended = False
        self._left = int(message.one("content-length")) if message.all("content-length") else 0

    async def read(self, least: int | None) -> None:
        """At least that many bytes of it; None for all of them."""
        if self._chunks is None:
            data = await self._reader.readexactly(self._left if least is None else least)
            self._left -= len(data)
            self._arrival.body += data
            return
        while not self._ended and (least is None or len(self._arrival.body) < least):
            piece = self._chunks.read(self._buffer)
            self._ended = piece is None
            self._arrival.body += piece or b""
            if piece == b"":
                self._buffer += await self._reader.readuntil(b"\n")
