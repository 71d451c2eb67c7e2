"""A service of this host inside a slot, such as the local model on 127.0.0.1:8080, under the same policy as all else.

The tool speaks plain HTTP to a port in its own namespace. Each request is written anew as the absolute-form request
that it amounts to and given to the gate as if it had come through the slot's proxy port: identity, rules, injected
headers, limits and the audit log are those of every other request, and there is no second way to decide.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import replace
from typing import Final

from cloned_proxy.proxy.gate.gate import Gate
from cloned_proxy.proxy.transport.listener import BACKLOG, Listener
from cloned_proxy.proxy.wire.head import Head, HeadError, parse_head

_MAX_HEAD: Final = 65_536
_HEAD_SECONDS: Final = 10.0
_EXHAUSTED_SECONDS: Final = 0.1
"""Until connections are accepted again after one could not be."""
_AT_ONCE: Final = 128
"""Connections of one slot that have no place in the gate, or one for the service: a place is taken once the head has
come, so their descriptors have to be bounded before. Who comes when all are taken waits with the kernel."""
_CHUNK: Final = 65_536
_DROPPED: Final = frozenset({"host", "connection", "keep-alive", "upgrade"})
_BAD_REQUEST: Final = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class ServiceRelay:
    """One listening socket in a slot, relayed to one address of this host through the gate."""

    def __init__(self, gate: Gate, listener: Listener, target: tuple[str, int]) -> None:
        self._gate = gate
        self._listener = listener
        self._adopts = replace(listener, names=None)
        """The listener whose requests are those that come for the service."""
        self._authority = f"{target[0]}:{target[1]}"
        self._room = asyncio.BoundedSemaphore(_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Accepts from now on; the listener's socket belongs to the relay."""
        self._listener.socket.setblocking(False)
        self._listener.socket.listen(BACKLOG)  # some are bound early, and refuse until they are opened
        self._keep(asyncio.create_task(self._accept()))

    def close(self) -> None:
        """Stops accepting and cuts what is open, on both sides."""
        # Before its number is another's: the task that accepts learns of its end in the loop's next turn.
        asyncio.get_running_loop().remove_reader(self._listener.socket.fileno())
        self._listener.socket.close()
        for task in tuple(self._tasks):
            task.cancel()
        for listener in (self._listener, self._adopts):
            self._gate.close(listener)

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._room.acquire()
            try:
                sock, _ = await loop.sock_accept(self._listener.socket)
            except OSError:  # no descriptors, or the client has gone already
                self._room.release()
                await asyncio.sleep(_EXHAUSTED_SECONDS)
                continue
            self._keep(asyncio.create_task(self._enter(sock)))

    async def _enter(self, sock: socket.socket) -> None:
        """One connection, until it has ended or the gate has it."""
        try:
            # One socket for all addresses of the slot: who dialled a name at this port is not here for the service.
            if self._listener.names is not None and not self._listener.asks_proxy(sock.getsockname()[0]):
                await self._gate.adopt(sock, self._listener)
                return
            reader, writer = await _streams(sock)
        except OSError:  # the client has gone
            sock.close()
            return
        except BaseException:
            sock.close()
            raise
        else:
            await self._serve(reader, writer)
        finally:
            self._room.release()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._relay(reader, writer)
            writer.close()
            await writer.wait_closed()  # it keeps its place until it has the whole answer
        except (OSError, EOFError, TimeoutError, asyncio.CancelledError):
            pass  # one side went away, or the slot ended; both ends are closed below
        finally:
            writer.transport.abort()

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


async def _streams(sock: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if sock.family == socket.AF_UNIX:
        return await asyncio.open_unix_connection(sock=sock, limit=_MAX_HEAD)
    return await asyncio.open_connection(sock=sock, limit=_MAX_HEAD)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()
    with contextlib.suppress(OSError, RuntimeError):
        writer.write_eof()
