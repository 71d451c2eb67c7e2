"""What a client has sent on its connection and nobody has used yet: the rest of a request's body, then the next head.

Only this module knows how much of a body is still to come. Whoever takes bytes of a body, to forward them or to throw
them away, takes them here: no byte is counted twice, and none is taken from the request behind it. A server that has
answered reads the whole body or closes the connection (RFC 9112, section 9.3).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from cloned_proxy.policy.terms.decision import Request
from cloned_proxy.proxy.http1.underway import BodyLeft, BodyStage
from cloned_proxy.proxy.wire.body import (
    BodyError,
    BodyReader,
    Buffer,
    ChunkedBody,
    OversizeError,
    SizedBody,
    take_head,
)
from cloned_proxy.proxy.wire.head import FIRST_OF_TOKEN, Head, HeadError
from cloned_proxy.store.settings.config import ProxySettings

_BACKLOG: Final = 65_536
"""Bytes of a body that waits for its upstream, or of pipelined requests; at more the client is not read."""
_SMALL_BODY: Final = 65_536
"""Bytes of a body that are read and thrown away behind an answer of our own, so that the connection can be kept."""


class RequestBody:
    """What is still unread of the body of one request: taken from the client's buffer, in order, each byte once."""

    __slots__ = ("_buffer", "_expects", "_reader", "chunks")

    def __init__(self, head: Head | None, buffer: Buffer) -> None:
        """Reads the body of `head`; without a head, nothing."""
        self._buffer = buffer
        self.chunks: Final = ChunkedBody() if head is not None and head.chunked else None
        """The reader of a chunked body, which knows its trailers; None for a body that is framed otherwise."""
        self._reader: BodyReader | None = self.chunks
        """None when the body has been read to its end, or there is none."""
        if self._reader is None and head is not None and head.content_length:
            self._reader = SizedBody(head.content_length)
        fields = head.fields if head is not None and self._reader is not None else ()
        self._expects = any(name == "expect" for name, _ in fields)

    def go_on(self, body: BodyLeft) -> None:
        """Goes on with the body where another reader has stopped."""
        if body.stage is BodyStage.COMPLETE:
            self._reader = None
        elif self.chunks is not None:
            self.chunks.go_on(body.left, ended=body.stage is BodyStage.AT_CHUNK, extras=body.extras)
        else:
            self._reader = SizedBody(body.left)

    @property
    def complete(self) -> bool:
        """Whether it has been read to its end: what comes next is another request."""
        return self._reader is None

    @property
    def may_never_come(self) -> bool:
        """Whether the client waits for `100 Continue`: without it, another request may come in the body's place."""
        return self._expects and self._reader is not None

    @property
    def is_broken_off(self) -> bool:
        """Whether a client that sends nothing more has left it incomplete. Of chunks only reading them can tell."""
        reader = self._reader
        return isinstance(reader, SizedBody) and reader.left > len(self._buffer)

    @property
    def can_be_skipped(self) -> bool:
        """Whether nothing is left, or so little that reading it is cheaper than a new connection."""
        reader = self._reader
        if reader is None:
            return True
        return isinstance(reader, SizedBody) and reader.left <= _SMALL_BODY and not self._expects

    def read(self) -> bytes | None:
        """The next piece; `b""`: more has to come first; None: it is complete. Raises BodyError."""
        reader = self._reader
        if reader is None:
            return None
        piece = reader.read(self._buffer)
        if piece is None:
            self._reader = None
        return piece

    def pass_by(self, data: bytes) -> bool:
        """Whether all of `data`, received while the buffer holds nothing, is of this body; then it counts as read."""
        reader = self._reader
        return isinstance(reader, SizedBody) and reader.pass_by(data)

    def skip(self) -> bool:
        """Throws away what has come of it; True at its end. Raises BodyError."""
        while piece := self.read():
            pass
        return piece is None


class Intake:
    """The bytes of one client connection: the body of the request at hand, the next head, its body, and so on."""

    __slots__ = ("_held", "_read_head", "_settings", "_transport", "body", "buffer")

    def __init__(
        self, transport: asyncio.Transport, settings: ProxySettings, read_head: Callable[[bytes], Head]
    ) -> None:
        """`read_head` is what the connection makes of the bytes of a head; it raises HeadError."""
        self._transport = transport
        self._read_head = read_head
        self._settings = settings
        self._held = False
        self.buffer: Final = Buffer()
        self.body: RequestBody
        """The body of the request at hand, from `begin` on."""

    def add(self, data: bytes) -> None:
        buffer = self.buffer
        buffer += data

    def begin(self, head: Head) -> None:
        """What comes next is the body of this request."""
        self.body = RequestBody(head, self.buffer)

    def begin_between(self) -> None:
        """What comes next is a head: the request before it was served elsewhere."""
        self.body = RequestBody(None, self.buffer)

    def next_head(self) -> Head | None:
        """The head behind the body at hand, of which the rest is thrown away; None while it has not come.

        Pipelined requests are read one by one, and none of them may be a CONNECT. Raises HeadError.
        """
        buffer = self.buffer
        try:
            if not self.body.skip() or not len(buffer):
                return None
            if not buffer.starts_with(FIRST_OF_TOKEN):
                raise HeadError("these bytes are not an HTTP request")
            data = take_head(buffer, self._settings.max_head_bytes)
        except BodyError as error:
            raise HeadError(str(error)) from error
        except OversizeError as error:
            raise HeadError(str(error), status=431) from error
        if data is None:
            return None
        head = self._read_head(data)
        if head.method == "CONNECT":
            raise HeadError("CONNECT must be the first request of its connection").about(
                Request(head.host, head.port), head.fields
            )
        return head

    @property
    def expects_more(self) -> bool:
        """Whether a body or a head has begun and is not complete."""
        return bool(len(self.buffer)) or not self.body.complete

    @property
    def held(self) -> bool:
        """Whether its client is not read, and so not seen to leave."""
        return self._held

    def balance(self) -> None:
        """Stops reading a client that sends more than is taken from it, and goes on when it was taken."""
        held = len(self.buffer) > _BACKLOG
        if held is not self._held and not self._transport.is_closing():
            self._held = held
            if held:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def close(self) -> None:
        """Forgets what has come, and is not in the way of what still comes."""
        self.buffer.take(len(self.buffer))
        self.balance()
