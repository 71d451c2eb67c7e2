"""The two directions of one socket as AnyIO's byte streams."""

from __future__ import annotations

import contextlib
import socket

import anyio
import anyio.lowlevel
from anyio.abc import ByteReceiveStream, ByteSendStream


class SocketReceiver(ByteReceiveStream):
    """What comes out of the process. Closing it tells the other end that nobody reads any more."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._closed = False
        self._guard = anyio.ResourceGuard("reading from")

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        """At least one byte. Raises anyio.EndOfStream, or anyio.ClosedResourceError after `aclose`."""
        with self._guard:
            await anyio.lowlevel.checkpoint()
            while not self._closed:
                try:
                    data = self._sock.recv(max_bytes)
                except BlockingIOError:
                    await anyio.wait_readable(self._sock)
                    continue
                except ConnectionResetError:
                    data = b""  # the process ended without reading its input: that is its right, and an end
                if not data:
                    raise anyio.EndOfStream
                return data
            raise anyio.ClosedResourceError

    async def aclose(self) -> None:
        self._closed = True
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RD)
        await anyio.lowlevel.checkpoint()


class SocketSender(ByteSendStream):
    """What goes into the process. Closing it is the end of its input."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._closed = False
        self._guard = anyio.ResourceGuard("writing to")

    async def send(self, item: bytes) -> None:
        """All of it. Raises anyio.BrokenResourceError when nobody reads it, ClosedResourceError after `aclose`."""
        left = memoryview(item)
        while left:
            left = left[await self.send_some(left) :]

    async def send_some(self, item: bytes | memoryview) -> int:
        """As much as goes at once, at least one byte; returns how much. Cancelled, it has sent nothing."""
        with self._guard:
            await anyio.lowlevel.checkpoint()
            while not self._closed:
                try:
                    return self._sock.send(item)
                except BlockingIOError:
                    await anyio.wait_writable(self._sock)
                except OSError as error:
                    raise anyio.BrokenResourceError from error
            raise anyio.ClosedResourceError

    async def aclose(self) -> None:
        self._closed = True
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)
        await anyio.lowlevel.checkpoint()
