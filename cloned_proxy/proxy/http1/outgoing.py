"""A request on its way to the upstream: its head, and its body piece by piece."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cloned_proxy.policy.terms.rule import Host
from cloned_proxy.proxy.http1.incoming import LAST_CHUNK, chunk
from cloned_proxy.proxy.http1.intake import RequestBody
from cloned_proxy.proxy.http1.upstream import IDLE_SECONDS, JUST_USED_SECONDS, PlainUpstream
from cloned_proxy.proxy.secrets.injection import Injection
from cloned_proxy.proxy.secrets.leak import LeakScanner
from cloned_proxy.proxy.wire.fields import encode_request
from cloned_proxy.proxy.wire.head import Head
from cloned_proxy.proxy.wire.response import trailers_of

_IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""RFC 9110, section 9.2.2: what a proxy may send a second time when the first try met a stale connection."""
_SMALL: Final = 65_536
"""Bytes of a body that are kept for that."""


def repeatable(head: Head) -> bool:
    """Whether a request may be sent a second time: it asks for the same thing again, and is short enough to be kept."""
    return head.method in _IDEMPOTENT and not head.chunked and (head.content_length or 0) <= _SMALL


def longest_idle(head: Head) -> float:
    """Seconds for which a connection may have been idle that a request of this head meets."""
    return IDLE_SECONDS if repeatable(head) else JUST_USED_SECONDS


class Outgoing:
    """One request."""

    __slots__ = ("_body", "_charge", "_copy", "_head", "_leaks", "injection", "upstream")

    def __init__(
        self, head: Head, body: RequestBody, charge: Callable[[int], None], leaks: LeakScanner | None = None
    ) -> None:
        """`charge` is told the bytes that go upstream; the body passes through `leaks`."""
        self._leaks = leaks
        self._body = body
        self._head = head
        self._charge = charge
        self._copy: bytearray | None = None
        """All that was written to a kept connection, of a request that may be sent again."""
        self.injection: Injection | None = None
        """What its rule adds to it, and takes out of it."""
        self.upstream: PlainUpstream | None = None
        """Where it goes, from `send` on."""

    @property
    def repeatable(self) -> bool:
        return repeatable(self._head)

    @property
    def may_go_again(self) -> bool:
        """Whether it may be sent on another connection, when this one was kept and brought nothing."""
        return self._copy is not None

    @property
    def lacks_more(self) -> bool:
        """Whether the body is not the whole although all that has come of it was taken, or can never be."""
        upstream = self.upstream
        all_was_taken = upstream is not None and not upstream.full
        return not self._body.complete and (all_was_taken or self._body.is_broken_off)

    def send(self, upstream: PlainUpstream, host: Host | None) -> None:
        """Writes the head, or what was written the first time, and what has come of the body. Raises BodyError."""
        if host is None:
            raise ValueError("a grant without a canonical host")
        self.upstream = upstream
        written, self._copy = self._copy, bytearray() if upstream.reused and self.repeatable else None
        hop = upstream.hop
        begin = encode_request(self._head, host, self.injection, hop) if written is None else bytes(written)
        self._write(upstream, [begin])

    def more(self) -> bool:
        """The client's buffer holds more of the body, or the upstream takes more of it: whether any of it could go on.

        Raises BodyError.
        """
        upstream = self.upstream
        if self._body.complete or upstream is None or upstream.full:
            return False
        self._write(upstream, [])
        return True

    def pass_by(self, data: bytes) -> bool:
        """The short way of `more` for bulk: False when `data` has to go through the client's buffer."""
        upstream = self.upstream
        if upstream is None or upstream.full or (self._leaks is not None and not self._leaks.coded):
            return False
        if not self._body.pass_by(data):
            return False
        self._write(upstream, [data])
        return True

    def _write(self, upstream: PlainUpstream, out: list[bytes]) -> None:
        if not self._body.complete:
            self._take_body(out)
        if out:
            data = b"".join(out)
            if self._copy is not None:
                self._copy += data
            self._charge(len(data))
            upstream.transport.write(data)

    def _take_body(self, out: list[bytes]) -> None:
        """Moves what there is of the body from the client's buffer to `out`."""
        body, chunks, leaks = self._body, self._body.chunks, self._leaks
        while piece := body.read():
            self._pass(piece if leaks is None else leaks.feed(piece), out)
        if piece is not None:
            return
        if leaks is not None:
            self._pass(leaks.rest(), out)
        if chunks is not None:
            injection = self.injection
            trailers = trailers_of(chunks) if injection is None else trailers_of(chunks, but=injection.is_own)
            if leaks is not None:
                leaks.search(trailers)
            out += (LAST_CHUNK, trailers, b"\r\n")

    def _pass(self, piece: bytes, out: list[bytes]) -> None:
        if piece:
            out.append(piece if self._body.chunks is None else chunk(piece))
