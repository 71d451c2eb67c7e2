"""One granted request and its response, from the first byte to an upstream to the last byte to the client."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from cloned_proxy.policy.model import Reason, Verdict
from cloned_proxy.proxy import answers
from cloned_proxy.proxy.answers import UpstreamFailure
from cloned_proxy.proxy.body import (
    BodyError,
    BodyReader,
    Buffer,
    ChunkedBody,
    OversizeError,
    SizedBody,
    UnsizedBody,
    take_head,
)
from cloned_proxy.proxy.dial import DialError, ExhaustedError, dial
from cloned_proxy.proxy.enforcer import Grant
from cloned_proxy.proxy.fields import asks_for_websocket, encode_request
from cloned_proxy.proxy.head import Head, HeadError
from cloned_proxy.proxy.plain.response import (
    FIRST_FINAL,
    SWITCHING_PROTOCOLS,
    ResponseError,
    ResponseHead,
    parse_response,
    trailers_of,
)
from cloned_proxy.proxy.plain.upstream import Upstream
from cloned_proxy.proxy.relay import Relay
from cloned_proxy.proxy.tunnels import Tunnel

if TYPE_CHECKING:
    from cloned_proxy.proxy.plain.client import PlainClient

_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""RFC 9110, section 9.2.1: what may be sent a second time when the first try met a stale connection."""
_LAST_CHUNK: Final = b"0\r\n"
_NEVER: Final = float("inf")
_AFTER_FIN: Final = 5.0
"""Seconds that a response may still take to begin when the client has nothing more to say."""


class Exchange:
    """Owned by its client connection, and the conversation of the upstream connection that it holds."""

    __slots__ = ("_body", "_buffer", "_client", "_early", "_grant", "_head", "_last_byte", "_over", "_reader",
                 "_rechunks", "_relay", "_response", "_started", "_task", "_upstream", "due", "last", "received",
                 "tunnel")  # fmt: skip

    def __init__(self, client: PlainClient, head: Head, grant: Grant) -> None:
        self._client = client
        self._head = head
        self._grant = grant
        self._body: BodyReader | None = _request_body(head)
        """None: the request has been sent whole."""
        self._early = head.minor == 1 and any(name == "expect" for name, _ in head.fields)
        """The client waits for `100 Continue`, and may never send the body when it does not come."""
        self._buffer = Buffer()
        """What the upstream sent and nobody has read yet."""
        self._reader: BodyReader | None = None
        self._rechunks = False
        self._response: ResponseHead | None = None
        """The final one."""
        self._over = False
        self.last = False
        """The client connection closes behind this response, and was told so."""
        self.received = False
        """The response has been passed on to its end."""
        self._started = False
        """Whether anything of the upstream's answer, an interim response included, has been passed on."""
        self._upstream: Upstream | None = None
        self._task: asyncio.Task[None] | None = None
        self._relay: Relay | None = None
        self.due = _NEVER
        """When the response must have begun, monotonic."""
        self._last_byte = time.monotonic()
        self.tunnel = Tunnel(grant, self._cut_from_outside, self._last_byte_at)

    def begin(self) -> None:
        parts = self._client.parts
        parts.tunnels.add(self.tunnel)
        rule = self._grant.decision.rule
        if rule is not None and rule.inject is not None:
            # Without the vault there is nothing to inject, and a call without its header is not what was allowed.
            self._refuse_as_faulty()
            return
        upstream = self._client.pool.take(self._grant)
        if upstream is None:
            self._dial()
            return
        upstream.conversation = self
        self._send(upstream)

    # The request.

    @property
    def sent(self) -> bool:
        """Whether the request has been read to its end."""
        return self._body is None

    def request_bytes(self) -> None:
        """The client's buffer holds more of the body, or the upstream takes more of it."""
        upstream = self._upstream
        if self._body is None or upstream is None or upstream.full:
            return
        out: list[bytes] = []
        self._take_body(self._body, out)
        self._write_up(upstream, out)

    def pass_request(self, data: bytes) -> bool:
        """The short way of `request_bytes` for bulk: False when `data` has to go through the client's buffer."""
        body, upstream = self._body, self._upstream
        if type(body) is not SizedBody or upstream is None or upstream.full or not body.pass_by(data):
            return False
        out = [data]
        self._take_body(body, out)
        self._write_up(upstream, out)
        return True

    def _send(self, upstream: Upstream) -> None:
        self._upstream = upstream
        host = self._grant.decision.host
        if host is None:
            raise ValueError("a grant without a canonical host")
        out = [encode_request(self._head, host)]
        if self._body is not None:
            self._take_body(self._body, out)
        else:
            self._await_response()
        self._write_up(upstream, out)

    def _take_body(self, body: BodyReader, out: list[bytes]) -> None:
        """Moves what there is of the request's body from the client's buffer to `out`. Raises BodyError."""
        chunked = isinstance(body, ChunkedBody)
        while piece := body.read(self._client.buffer):
            out.append(_chunk(piece) if chunked else piece)
        if piece is None:
            if isinstance(body, ChunkedBody):
                out += (_LAST_CHUNK, trailers_of(body), b"\r\n")
            self._body = None
            self._await_response()

    def client_ended(self) -> None:
        """The client has sent FIN: half a close, or, far more often, a client that gave up and holds a place."""
        if self.due is not _NEVER:
            self.due = min(self.due, time.monotonic() + _AFTER_FIN)

    def _await_response(self) -> None:
        if self._response is None:
            self.due = time.monotonic() + self._client.parts.settings.response_timeout

    def _write_up(self, upstream: Upstream, out: list[bytes]) -> None:
        if out:
            data = b"".join(out)
            self._last_byte = time.monotonic()
            self._grant.charge.up(len(data))
            upstream.transport.write(data)
        if self._body is None and self.received:
            self._complete()

    def upstream_drained(self) -> None:
        try:
            self.request_bytes()
            self._client.balance()
        except BodyError as error:
            self.refuse_body(error)
        except Exception:  # noqa: BLE001  logged there; whatever it was, the request must not go on
            self._client.failed()

    # The dial.

    def _dial(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        try:
            upstream = await self._connected()
            if upstream is not None:
                self._task = None
                self._send(upstream)
                self._client.balance()
        except BodyError as error:
            self.refuse_body(error)
        except Exception:  # noqa: BLE001  logged there; whatever it was, the request must not go on
            self._client.failed()

    async def _connected(self) -> Upstream | None:
        """A new connection, or None when the client was told why there is none."""
        grant, settings = self._grant, self._client.parts.settings
        started = time.perf_counter()
        try:
            sock = await dial(grant.addresses, grant.decision.request.port, seconds=settings.connect_timeout)
        except DialError as error:
            self._fail(UpstreamFailure(error.phase, error.timed_out))
            return None
        except ExhaustedError:
            self._refuse_as_faulty()
            return None
        try:
            _, upstream = await asyncio.get_running_loop().create_connection(
                lambda: Upstream(self._client.pool, grant, self), sock=sock
            )
        except BaseException:
            sock.close()
            raise
        self._client.parts.metrics.upstream_connected(time.perf_counter() - started)
        return upstream

    # The response.

    def response_bytes(self, data: bytes) -> None:
        try:
            self._pass_response(data)
        except (ResponseError, OversizeError, BodyError) as error:
            self._client.log_bad_response(str(error), self._grant.id)
            self._fail(UpstreamFailure("response"))
        except Exception:  # noqa: BLE001  logged there; whatever it was, nothing of it may go on
            self._client.failed()

    def _pass_response(self, data: bytes) -> None:
        self._last_byte = time.monotonic()
        out: list[bytes] = []
        reader, buffer = self._reader, self._buffer
        if reader is not None and not len(buffer) and reader.pass_by(data):
            out.append(_chunk(data) if self._rechunks else data)
        else:
            buffer += data
        ended = (self._response is not None or self._read_head(out)) and self._read_body(out)
        self._write_down(out)
        if ended:
            self._received()

    def _read_head(self, out: list[bytes]) -> bool:
        """Whether the final head has been read. Interim ones go on as they come (RFC 9110, section 15.2)."""
        settings = self._client.parts.settings
        while (data := take_head(self._buffer, settings.max_head_bytes)) is not None:
            response = parse_response(data, max_fields=settings.max_head_fields)
            if response.status >= FIRST_FINAL:
                self._begin_response(response, out)
                return True
            self._started = True
            self._early = False
            if response.status == SWITCHING_PROTOCOLS:
                if response.upgrade != b"websocket" or not asks_for_websocket(self._head):
                    raise ResponseError("101 for an upgrade that nobody asked for (RFC 9110, section 15.2.2)")
                self._switch(response)
                return False
            if self._head.minor:
                out.append(response.encode(None, minor=1, close=False))
        return False

    def _begin_response(self, response: ResponseHead, out: list[bytes]) -> None:
        self.due = _NEVER
        self._response = response
        self._reader = reader = response.body(self._head.method)
        self._rechunks = reader is not None and not isinstance(reader, SizedBody) and self._head.minor == 1
        if not self._head.keep_alive or self._client.parts.stopping() or (self._early and self._body is not None):
            self.last = True
        out.append(response.encode(reader, minor=self._head.minor, close=self.last))

    def _read_body(self, out: list[bytes]) -> bool:
        """Whether the response is complete. Raises BodyError."""
        reader = self._reader
        if reader is None:
            return True
        while piece := reader.read(self._buffer):
            out.append(_chunk(piece) if self._rechunks else piece)
        if piece is not None:
            return False
        if isinstance(reader, ChunkedBody) and self._rechunks:
            out += (_LAST_CHUNK, trailers_of(reader), b"\r\n")
        return True

    def _write_down(self, out: list[bytes]) -> None:
        if not out:
            return
        data = b"".join(out)
        self._grant.charge.down(len(data))
        self._client.transport.write(data)
        if self._client.full and self._upstream is not None and not self._upstream.ended:
            self._upstream.transport.pause_reading()

    def client_drained(self) -> None:
        if self._upstream is not None and not self._upstream.ended:
            self._upstream.transport.resume_reading()

    def _received(self) -> None:
        self.received = True
        # An early answer: the request goes on to its end, unless nobody is there to take it.
        upstream = self._upstream
        if self._body is None or self.last or upstream is None or upstream.ended:
            self._complete()

    # The ends.

    def upstream_ended(self, *, broken: bool) -> None:
        try:
            self._upstream_ended(broken=broken)
        except Exception:  # noqa: BLE001  logged there; whatever it was, the client must not wait for more
            self._client.failed()

    def _upstream_ended(self, *, broken: bool) -> None:
        if self.received:
            self._complete()
        elif isinstance(self._reader, UnsizedBody) and not broken:
            self._write_down([_LAST_CHUNK, b"\r\n"] if self._rechunks else [])
            self.received = True
            self._complete()
        elif self._is_stale():
            self._upstream = None
            self._dial()
        else:
            self._fail(UpstreamFailure("response"))

    def _is_stale(self) -> bool:
        """Whether a kept connection had been closed before the request met it (RFC 9112, section 9.3.1)."""
        upstream, head = self._upstream, self._head
        return (
            upstream is not None
            and upstream.reused
            and not self._started
            and self._response is None
            and not len(self._buffer)
            and head.method in _SAFE
            and not head.chunked
            and not head.content_length
        )

    def timed_out(self) -> None:
        """The response did not begin in time."""
        self._fail(UpstreamFailure("response", timed_out=True))

    def cut(self, cause: str) -> None:
        """Ends the exchange at once; the client connection is the caller's."""
        if self._relay is not None:
            self._relay.cut(cause)
        else:
            self._end(cause)

    def _cut_from_outside(self, cause: str) -> None:
        """By the sweep: a client that has got nothing yet is told why, like one that comes a moment later."""
        enforcer = self._client.parts.enforcer
        decision = enforcer.review(self._grant)
        if self._started or self._response is not None or decision.passes:
            self._client.cut(cause)
            return
        refusal = enforcer.amend(self._grant, decision)
        self._end(cause)
        self._answer(answers.refused(refusal) if refusal is not None else answers.unavailable())

    def refuse_body(self, error: BodyError) -> None:
        """The request's body is malformed: what has gone upstream of it stays incomplete."""
        self._end(f"refused:{Reason.MALFORMED_REQUEST.value}")
        if self._response is None:
            self._client.refuse_head(HeadError(str(error)))
        else:
            self._client.reset()

    def _fail(self, failure: UpstreamFailure) -> None:
        self._end(f"upstream_error:{failure.phase}")
        self._answer(answers.failed(failure, self._grant.decision, self._grant.id))

    def _refuse_as_faulty(self) -> None:
        faulty = replace(self._grant.decision, verdict=Verdict.DENY, reason=Reason.INTERNAL_ERROR)
        refusal = self._client.parts.enforcer.amend(self._grant, faulty)
        self._end(f"refused:{faulty.reason.value}")
        self._answer(answers.refused(refusal) if refusal is not None else answers.unavailable())

    def _answer(self, answer: answers.Answer) -> None:
        if self._response is not None:
            # The client has a part of the response: it must not mistake the cut for the end.
            self._client.reset()
        else:
            begun = self._upstream is not None and self._body is not None
            self._client.answer(self._head, answer, keep=not begun)

    def _complete(self) -> None:
        keep = self._body is None and not self.last
        self._end("closed")
        self._client.exchange_ended(keep=keep)

    def _end(self, cause: str) -> None:
        """Bookkeeping, and the upstream connection: kept when both messages are complete. Once."""
        if self._over:
            return
        self._over = True
        self.due = _NEVER
        if self._task is not None:
            self._task.cancel()
        parts = self._client.parts
        parts.tunnels.discard(self.tunnel)
        parts.enforcer.finish(self._grant, cause)
        upstream = self._upstream
        if upstream is None or upstream.ended:
            return
        response = self._response
        if not self.received or self._body is not None or response is None:
            upstream.give_up()
        elif response.keep_alive and not len(self._buffer) and not (response.chunked and self._reader is None):
            if self._client.full:
                upstream.transport.resume_reading()
            self._client.pool.put(upstream)
        else:
            upstream.retire()

    # WebSocket.

    def _switch(self, response: ResponseHead) -> None:
        """RFC 6455: from here on the connection is a tunnel like any other."""
        client, upstream = self._client, self._upstream
        if upstream is None:
            raise ValueError("a response without an upstream")
        self.due = _NEVER
        client.parts.metrics.tunnel_opened(self._grant.caller.tool)
        self._write_down([response.encode(None, minor=1, close=False), self._buffer.take(len(self._buffer))])
        self._relay = relay = Relay(
            client.transport,
            client.buffer.take(len(client.buffer)),
            self._grant.charge,
            on_end=self._relay_ended,
            clock=time.monotonic,
        )
        relay.client.full = client.full
        upstream.hand_over(relay.upstream)
        if not relay.started:
            self._relay_ended("client_reset")
        elif client.eof:
            relay.client.eof_received()  # the loop told it to the old protocol, and will not tell it again

    def _relay_ended(self, cause: str) -> None:
        client = self._client
        client.parts.metrics.tunnel_closed(self._grant.caller.tool)
        self._upstream = None
        self._end(cause)
        client.forget()

    def _last_byte_at(self) -> float:
        return self._last_byte if self._relay is None else self._relay.last_byte


def _request_body(head: Head) -> BodyReader | None:
    if head.chunked:
        return ChunkedBody()
    return SizedBody(head.content_length) if head.content_length else None


def _chunk(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)
