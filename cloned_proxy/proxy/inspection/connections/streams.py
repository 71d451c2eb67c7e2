"""The client's streams as the inspection sees them: closed only by their owner."""

from __future__ import annotations

import asyncio
from typing import Final

from cloned_proxy.proxy.transport.linger import LINGER_BYTES, LINGER_SECONDS

_READ: Final = 65_536


class ClientReader:
    def __init__(self, reader: asyncio.StreamReader, first: bytes = b"") -> None:
        """`first` has been read already, and is read again."""
        self._reader = reader
        self._first = first
        self._aborted = False

    def abort(self) -> None:
        """From now on it is at its end. Whoever waits for it is cancelled by their owner."""
        self._aborted = True

    async def read(self, count: int) -> bytes:
        if self._aborted:
            return b""
        if self._first:
            first, self._first = self._first, b""
            return first
        return await self._reader.read(count)


class ClientWriter:
    """`close` ends the writing only: the transport belongs to `serve`, which lingers and then aborts it."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._closed = False

    @property
    def transport(self) -> asyncio.WriteTransport:
        return self._writer.transport

    def write(self, data: bytes) -> None:
        if not self._closed:
            self._writer.write(data)

    async def drain(self) -> None:
        await self._writer.drain()

    def close(self) -> None:
        self._closed = True


async def linger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends FIN behind what was written and reads on for a moment without looking (RFC 9112, section 9.6)."""
    try:
        async with asyncio.timeout(LINGER_SECONDS):
            if writer.transport.is_closing():
                return
            writer.write_eof()
            dropped = 0
            while dropped <= LINGER_BYTES and (data := await reader.read(_READ)):
                dropped += len(data)
            await writer.drain()
    except (OSError, TimeoutError, RuntimeError):
        return
