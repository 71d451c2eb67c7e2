"""A service of this host inside a slot, such as the local model on 127.0.0.1:8080, under the same policy as all else.

The tool speaks plain HTTP to a port in its own namespace. Each request is written anew as the absolute-form request
that it amounts to and given to the gate as if it had come through the slot's proxy port: identity, rules, injected
headers, limits and the audit log are those of every other request, and there is no second way to decide.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Final, cast

from cloned_proxy.proxy.gate.gate import Gate
from cloned_proxy.proxy.transport.listener import Listener
from cloned_proxy.proxy.wire.head import Head, HeadError, parse_head

_MAX_HEAD: Final = 65_536
_HEAD_SECONDS: Final = 10.0
_FULL_SECONDS: Final = 0.02
"""Between two looks for a place in the gate."""
_CHUNK: Final = 65_536
_DROPPED: Final = frozenset({"host", "connection", "keep-alive", "upgrade"})
type Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[None, None, None]]
_BAD_REQUEST: Final = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class ServiceRelay:
    """One listening socket in a slot, relayed to one address of this host through the gate."""

    def __init__(self, gate: Gate, listener: Listener, target: tuple[str, int]) -> None:
        self._gate = gate
        self._listener = listener
        self._adopts = replace(listener, names=None)
        """The listener whose requests are those that come for the service."""
        self._authority = f"{target[0]}:{target[1]}"
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Accepts from now on; the listener's socket belongs to the relay."""
        if self._listener.names is not None:
            # One socket for all addresses of the slot: who dialled a name at this port is not here for the service.
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(
                lambda: _Fork(self._gate, self._listener, self._serve), sock=self._listener.socket
            )
        elif self._listener.socket.family == socket.AF_UNIX:
            self._server = await asyncio.start_unix_server(self._serve, sock=self._listener.socket, limit=_MAX_HEAD)
        else:
            self._server = await asyncio.start_server(self._serve, sock=self._listener.socket, limit=_MAX_HEAD)

    def close(self) -> None:
        """Stops accepting and cuts what is open, on both sides."""
        if self._server is not None:
            self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        for listener in (self._listener, self._adopts):
            self._gate.close(listener)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            await self._relay(reader, writer)
        except (OSError, EOFError, TimeoutError, asyncio.CancelledError):
            pass  # one side went away, or the slot ended; both ends are closed below
        finally:
            writer.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_HEAD_SECONDS):
                data = await reader.readuntil(b"\r\n\r\n")
            head = parse_head(data, tunnelled=True)
        except (HeadError, asyncio.LimitOverrunError):
            writer.write(_BAD_REQUEST)
            await writer.drain()
            return
        ours, gates = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            await self._gate.adopt(gates, self._adopts)
            up_reader, up_writer = await asyncio.open_unix_connection(sock=ours)
        except BaseException:
            ours.close()
            gates.close()
            raise
        try:
            up_writer.write(self._absolute(head))
            body = asyncio.create_task(_copy(reader, up_writer))
            try:
                await _copy(up_reader, writer)
            finally:
                body.cancel()
        finally:
            up_writer.close()

    def _absolute(self, head: Head) -> bytes:
        """The head as a proxy wants it. One request a connection: the body's end needs no framing of our own."""
        kept = [f"{name}: {value}" for name, value in head.fields if name not in _DROPPED]
        first = f"{head.method} http://{self._authority}{head.path} HTTP/1.{head.minor}"
        return "\r\n".join([first, f"Host: {self._authority}", *kept, "Connection: close", "", ""]).encode("latin-1")


class _Fork(asyncio.Protocol):
    """Gives a connection to the service or to the gate, by the address that was dialled."""

    def __init__(self, gate: Gate, listener: Listener, serve: Serve) -> None:
        self._gate = gate
        self._listener = listener
        self._serve = serve

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        chosen: asyncio.BaseProtocol
        if self._listener.asks_proxy(transport.get_extra_info("sockname")[0]):
            reader = asyncio.StreamReader(limit=_MAX_HEAD)
            chosen = asyncio.StreamReaderProtocol(reader, self._serve)
        else:
            entered = self._gate.enter(self._listener)
            if entered is None:
                self._wait(cast(asyncio.Transport, transport))
                return
            chosen = entered
        transport.set_protocol(chosen)
        if not cast(asyncio.Transport, transport).is_reading():
            cast(asyncio.Transport, transport).resume_reading()
        chosen.connection_made(transport)

    def _wait(self, transport: asyncio.Transport) -> None:
        """Until there is a place for it. What it says meanwhile stays with the kernel."""
        if not transport.is_closing():
            if transport.is_reading():
                transport.pause_reading()
            asyncio.get_running_loop().call_later(_FULL_SECONDS, self.connection_made, transport)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()
    with contextlib.suppress(OSError, RuntimeError):
        writer.write_eof()
