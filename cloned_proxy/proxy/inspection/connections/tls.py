"""TLS over a pair of asyncio streams, for sessions of OpenSSL that were made elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

from OpenSSL import SSL

from cloned_proxy.proxy.inspection.connections.bounds import UNSENT
from cloned_proxy.proxy.inspection.connections.streams import ClientReader, ClientWriter
from cloned_proxy.proxy.transport.settled import has_left

_READ: Final = 65_536
_RECORD: Final = 16_384
_LOOK_SECONDS: Final = 1.0
"""Between two looks at a peer that is not read."""

type Reader = asyncio.StreamReader | ClientReader
type Writer = asyncio.StreamWriter | ClientWriter


class TlsStream:
    """One side of a connection. All errors of OpenSSL leave it as `SSL.Error`, those of the socket as `OSError`."""

    __slots__ = ("_ended", "_reader", "_session", "_writer", "closed_cleanly", "dead")

    def __init__(self, session: SSL.Connection, reader: Reader, writer: Writer) -> None:
        self._session = session
        self._reader = reader
        self._writer = writer
        self._ended = False
        self.closed_cleanly = False
        """Whether the peer has said that it is done (close_notify): what it sent is whole."""
        self.dead = False
        """Nothing is written any more."""

    @property
    def protocol(self) -> bytes:
        """Chosen by ALPN; b"" for none."""
        return self._session.get_alpn_proto_negotiated()

    async def handshake(self) -> None:
        """Raises SSL.Error, OSError; EOFError when the peer leaves in the middle."""
        while True:
            try:
                self._session.do_handshake()
            except SSL.WantReadError:
                self._flush()
            except SSL.Error:
                self._flush()  # the alert
                raise
            else:
                self._flush()
                return
            await self._writer.drain()
            data = await self._reader.read(_READ)
            if not data:
                raise EOFError("the peer has left during the TLS handshake")
            self._session.bio_write(data)

    async def read(self) -> bytes:
        """What has come, at least one byte; b"" at the end of the connection. Raises SSL.Error, OSError."""
        while not self._ended:
            if data := self._decrypted():
                return data
            if self._ended:
                break
            data = await self._reader.read(_READ)
            if not data:
                self._ended = True
                break
            self._session.bio_write(data)
        return b""

    def _decrypted(self) -> bytes:
        pieces: list[bytes] = []
        try:
            while True:
                pieces.append(self._session.recv(_RECORD))
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            self._ended = self.closed_cleanly = True
        self._flush_answers()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def write(self, data: bytes) -> None:
        """Goes to the transport, which buffers it; `drain` waits for that. Nothing happens on a dead connection."""
        if self.dead:
            return
        with memoryview(data) as view:
            for at in range(0, len(view), _RECORD):
                self._session.sendall(view[at : at + _RECORD])
        self._flush()

    @property
    def unsent(self) -> int:
        """Bytes that the transport has and the socket does not take yet."""
        return self._writer.transport.get_write_buffer_size()

    async def drain(self) -> None:
        """Waits while too much is buffered. Raises OSError."""
        await self._writer.drain()

    async def unread(self, wait: Callable[[], Awaitable[object]], *, half_closed: bool = True) -> None:
        """Waits while the peer is not read. Raises ConnectionResetError when it leaves meanwhile: see `has_left`.

        `wait` is called again after each look. What the peer has left behind may be too much for the receive buffer of
        the kernel; then its FIN is not here yet, and nobody can tell that it has gone.
        """
        while True:
            try:
                async with asyncio.timeout(_LOOK_SECONDS):
                    await wait()
            except TimeoutError:
                if has_left(self._writer.transport, half_closed=half_closed):
                    raise ConnectionResetError("the peer has left behind what has not been read") from None
            else:
                return

    def close(self) -> None:
        """Says that this is the end (RFC 8446, section 6.1) and closes the writing side."""
        if not self.dead:
            with contextlib.suppress(SSL.Error):
                self._session.shutdown()
            self._flush()
        self.dead = True
        self._writer.close()

    def abort(self) -> None:
        """Ends the session without a further byte; a client's transport is reset by its owner."""
        self.dead = True
        self._ended = True
        if isinstance(self._reader, ClientReader):
            self._reader.abort()
        if isinstance(self._writer, asyncio.StreamWriter):
            self._writer.transport.abort()

    def _flush_answers(self) -> None:
        """What OpenSSL says to what was read, such as its no to a renegotiation: it keeps all that nobody fetches.

        Raises OSError for a peer that asks and asks, and reads nothing.
        """
        self._flush()
        if not self.dead and self.unsent > UNSENT:
            self.abort()
            raise ConnectionAbortedError("the peer reads none of what it has asked for")

    def _flush(self) -> None:
        # A client that was reset is told of as the end of what it sends, and uvloop refuses what is written to it then.
        self.dead = self.dead or self._writer.transport.is_closing()
        try:
            while not self.dead:
                self._writer.write(self._session.bio_read(_READ))
        except SSL.WantReadError:
            pass
