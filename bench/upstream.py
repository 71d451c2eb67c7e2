"""The one upstream of all contenders, a process of its own: plain HTTP, and TLS that answers marked hellos at once.

A marked ClientHello gets the server flight of a real handshake, recorded at the start: the proxy in between cannot
tell, and no time goes into cryptography. Any other ClientHello gets a real handshake.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import ssl
import sys
from typing import Final, cast

import trustme
import uvloop

from bench.wire import HOST, RESPONSE, asked_size, is_whole, real_hello

_CHUNK: Final = b"\x17" * 262_144
_END: Final = b"\r\n\r\n"
EVERYWHERE: Final = "0.0.0.0"


class HttpServer(asyncio.Protocol):
    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        heads = data.count(_END)
        self._rest = data.rpartition(_END)[2]
        if heads and self._transport is not None:
            self._transport.write(RESPONSE * heads)


class TlsServer(asyncio.Protocol):
    """Speaks by the first bytes: marked, or real TLS through memory BIOs (uvloop cannot turn to TLS after a look)."""

    def __init__(self, context: ssl.SSLContext, flight: bytes) -> None:
        self._context = context
        self._flight = flight
        self._first: bytes | None = b""
        self._transport: asyncio.Transport
        self._left = 0
        self._paused = False
        self._session: ssl.SSLObject | None = None
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._shaken = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=2_097_152)

    def data_received(self, data: bytes) -> None:
        if self._first is not None:
            self._first += data
            if not is_whole(self._first):
                return
            data, self._first = self._first, None
            size = asked_size(data)
            if size is not None:
                self._transport.write(self._flight)
                self._left = size
                self._pump()
                return
            self._session = self._context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        if self._session is not None:
            self._speak_tls(self._session, data)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._pump()

    def _pump(self) -> None:
        while self._left > 0 and not self._paused and not self._transport.is_closing():
            piece = _CHUNK if self._left >= len(_CHUNK) else _CHUNK[: self._left]
            self._left -= len(piece)
            self._transport.write(piece)

    def _speak_tls(self, session: ssl.SSLObject, data: bytes) -> None:
        self._incoming.write(data)
        try:
            if not self._shaken:
                session.do_handshake()
                self._shaken = True
            while received := session.read(65_536):
                if received.endswith(_END):
                    session.write(RESPONSE)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            self._transport.close()
        if self._outgoing.pending:
            self._transport.write(self._outgoing.read())


def _record_flight(context: ssl.SSLContext) -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    incoming.write(real_hello())
    session = context.wrap_bio(incoming, outgoing, server_side=True)
    try:
        session.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise RuntimeError("a handshake ended after one flight")


def _bound(address: str) -> socket.socket:
    """A free port there. EVERYWHERE is every address of loopback, and none of another interface."""
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if address == EVERYWHERE:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
    bound.bind((address, 0))
    return bound


async def _serve(address: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert(HOST).configure_cert(context)
    flight = _record_flight(context)
    loop = asyncio.get_running_loop()
    http = await loop.create_server(HttpServer, sock=_bound(address), backlog=4096)
    tls = await loop.create_server(lambda: TlsServer(context, flight), sock=_bound(address), backlog=4096)
    print(http.sockets[0].getsockname()[1], tls.sockets[0].getsockname()[1], flush=True)
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()


if __name__ == "__main__":
    sys.exit(uvloop.run(_serve(sys.argv[1])))
