"""A request on its way to the upstream: its body piece by piece, and the connection that it takes there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from cloned_proxy.policy.model import Host
from cloned_proxy.proxy.body import BodyReader, Buffer, ChunkedBody, SizedBody
from cloned_proxy.proxy.dial import dial, join
from cloned_proxy.proxy.fields import encode_request
from cloned_proxy.proxy.grant import Grant
from cloned_proxy.proxy.head import Head
from cloned_proxy.proxy.injection import Injection
from cloned_proxy.proxy.parts import GateParts
from cloned_proxy.proxy.plain.incoming import LAST_CHUNK, chunk
from cloned_proxy.proxy.plain.response import trailers_of
from cloned_proxy.proxy.plain.upstream import Conversation, Pool, Upstream

_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""RFC 9110, section 9.2.1: what may be sent a second time when the first try met a stale connection."""


class Outgoing:
    """One request."""

    __slots__ = ("_body", "_buffer", "_charge", "_head", "injection", "upstream")

    def __init__(self, head: Head, buffer: Buffer, charge: Callable[[int], None]) -> None:
        """`buffer` is the client's; `charge` is told the bytes that go upstream."""
        self._body = request_body(head)
        self._head = head
        self._buffer = buffer
        self._charge = charge
        self.injection: Injection | None = None
        """What its rule adds to it, and takes out of it."""
        self.upstream: Upstream | None = None
        """Where it goes, from `send` on."""

    @property
    def sent(self) -> bool:
        """Whether the request has been read to its end."""
        return self._body is None

    @property
    def may_stay_unsent(self) -> bool:
        """Whether the client waits for `100 Continue`: it may never send the body when that does not come."""
        head = self._head
        return not self.sent and head.minor == 1 and any(name == "expect" for name, _ in head.fields)

    @property
    def may_go_again(self) -> bool:
        """Whether the same request may be sent on another connection, when this one was kept and brought nothing."""
        upstream, head = self.upstream, self._head
        reused = upstream is not None and upstream.reused
        return reused and head.method in _SAFE and not head.chunked and not head.content_length

    def send(self, upstream: Upstream, host: Host) -> None:
        """Writes the head, and what has come of the body. Raises BodyError."""
        self.upstream = upstream
        self._write(upstream, [encode_request(self._head, host, self.injection)])

    def more(self) -> bool:
        """The client's buffer holds more of the body, or the upstream takes more of it: whether any of it could go on.

        Raises BodyError.
        """
        upstream = self.upstream
        if self._body is None or upstream is None or upstream.full:
            return False
        self._write(upstream, [])
        return True

    def pass_by(self, data: bytes) -> bool:
        """The short way of `more` for bulk: False when `data` has to go through the client's buffer."""
        body, upstream = self._body, self.upstream
        if type(body) is not SizedBody or upstream is None or upstream.full or not body.pass_by(data):
            return False
        self._write(upstream, [data])
        return True

    def _write(self, upstream: Upstream, out: list[bytes]) -> None:
        body = self._body
        if body is not None and self._take_body(body, out):
            self._body = None
        if out:
            data = b"".join(out)
            self._charge(len(data))
            upstream.transport.write(data)

    def _take_body(self, body: BodyReader, out: list[bytes]) -> bool:
        """Moves what there is of the body from the client's buffer to `out`; True at its end."""
        chunked = isinstance(body, ChunkedBody)
        while piece := body.read(self._buffer):
            out.append(chunk(piece) if chunked else piece)
        if piece is not None:
            return False
        if isinstance(body, ChunkedBody):
            injection = self.injection
            trailers = trailers_of(body) if injection is None else trailers_of(body, but=injection.is_own)
            out += (LAST_CHUNK, trailers, b"\r\n")
        return True


async def reach(parts: GateParts, pool: Pool, grant: Grant, conversation: Conversation) -> Upstream:
    """A new connection to one of the grant's addresses. Raises DialError and ExhaustedError."""
    started = time.perf_counter()
    sock = await dial(grant.addresses, grant.decision.request.port, seconds=parts.settings.connect_timeout)
    upstream = Upstream(pool, grant, conversation)
    joining = asyncio.ensure_future(join(sock, lambda: upstream))
    try:
        await asyncio.shield(joining)
    except asyncio.CancelledError:
        # Not called off half-way, when nobody could say whose the socket is.
        joining.add_done_callback(lambda _: upstream.give_up())
        raise
    parts.metrics.upstream_connected(time.perf_counter() - started)
    return upstream


def request_body(head: Head) -> BodyReader | None:
    """The reader of a request's body; None for a request without one."""
    if head.chunked:
        return ChunkedBody()
    return SizedBody(head.content_length) if head.content_length else None
