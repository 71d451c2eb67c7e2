"""One granted request and its response, from the first byte to an upstream to the last byte to the client."""

from __future__ import annotations

import time
from typing import Final

from cloned_proxy.policy.terms.vocabulary import Reason
from cloned_proxy.proxy.enforce import answers
from cloned_proxy.proxy.enforce.answers import UpstreamFailure
from cloned_proxy.proxy.enforce.tunnels import response_seconds
from cloned_proxy.proxy.http1.underway import Underway
from cloned_proxy.proxy.http1.upstream import PlainUpstream
from cloned_proxy.proxy.plain.kept_client import NEVER
from cloned_proxy.proxy.plain.open_exchange import OpenExchange
from cloned_proxy.proxy.plain.websocket import join
from cloned_proxy.proxy.secrets.echo import ECHOED, EchoError
from cloned_proxy.proxy.secrets.injection import InjectionError
from cloned_proxy.proxy.transport.reset import reset_socket
from cloned_proxy.proxy.tunnel.closing import ClosingOnFailure
from cloned_proxy.proxy.upstream.chained.failure import UpstreamProxyError
from cloned_proxy.proxy.upstream.dial import DialError, ExhaustedError
from cloned_proxy.proxy.wire.body import BodyError, OversizeError
from cloned_proxy.proxy.wire.response import SWITCHING_PROTOCOLS, ResponseError, ResponseHead

_AFTER_FIN: Final = 4.0
"""Seconds that a response may be quiet when the client has sent FIN: few wait for it then, most have left."""


class PlainExchange(OpenExchange):
    """Owned by its client connection, and the conversation of the upstream connection that it holds."""

    __slots__ = ()

    def begin(self) -> None:
        services = self._client.services
        services.tunnels.add(self)
        if self._is_broken_off():
            self._client.cut("client_reset")
            return
        try:
            injection = services.injector.injection_for(self.grant)
        except InjectionError as error:
            self._refuse(error.reason)
            return
        if injection is not None:
            self._outgoing.injection = injection
            self._incoming.look_for(injection.echo)
        self._reach.begin(self, repeatable=self._outgoing.repeatable)

    def go_on(self, at: Underway) -> None:
        """In the place of `begin`, for a request that somebody else has begun to serve."""
        tunnels = self._client.services.tunnels
        tunnels.add(self)
        self._incoming.started = at.started
        tunnels.look_at(self)  # before a byte of what was revoked on the way from there to here reaches anybody
        if self._over:
            if at.upstream is not None:
                reset_socket(at.upstream)
            return
        if isinstance(at.failure, UpstreamFailure):
            self._fail(at.failure)
        elif at.failure is not None:
            self.not_reached(at.failure)
        elif at.upstream is not None:
            self._reach.go_on(at.upstream, self, lambda upstream: self._rejoined(upstream, at))
        else:
            self._reach.begin(self, repeatable=self._outgoing.repeatable)

    def _rejoined(self, upstream: PlainUpstream, at: Underway) -> None:
        if self._over:
            upstream.give_up()
            return
        with ClosingOnFailure(self._client):
            try:
                self._outgoing.upstream = upstream
                upstream.transport.write(at.unsent)
                self._request_moved()
                self.request_bytes()
                if at.answer and not self._over:
                    self.response_bytes(at.answer)
            except BodyError as error:
                self.refuse_body(error)

    # The request.

    def request_bytes(self) -> None:
        """The client's buffer holds more of the body. Raises BodyError."""
        if self._outgoing.more():
            self._request_moved()

    def pass_request(self, data: bytes) -> bool:
        """The short way of `request_bytes` for bulk: False when `data` has to go through the client's buffer."""
        if passed := self._outgoing.pass_by(data):
            self._request_moved()
        return passed

    def reached(self, upstream: PlainUpstream) -> None:
        """The upstream takes the request. Raises BodyError."""
        self._incoming.chained = upstream.hop is not None
        self._outgoing.send(upstream, self.grant.decision.host)
        self._request_moved()

    def not_reached(self, error: DialError | ExhaustedError) -> None:
        if isinstance(error, DialError):
            self._fail(answers.not_dialled(error))
        else:
            self._refuse(Reason.INTERNAL_ERROR)

    def _request_moved(self) -> None:
        """A part of the request has been written, or the request was found to be complete."""
        self._last_byte = now = time.monotonic()
        if self._is_broken_off():
            self._client.cut("client_reset")
        elif not self._body.complete:
            self.due = now + _AFTER_FIN if self._client.eof else self.due
        elif self._incoming.head is None:
            patience = response_seconds(self.grant.decision, self._client.services.settings.response_timeout)
            self.due = now + (min(patience, _AFTER_FIN) if self._client.eof else patience)
        elif self.received:
            self._complete()

    def client_ended(self) -> None:
        """The client has sent FIN: half a close, or, far more often, a client that gave up and holds a place."""
        if self._is_broken_off():
            self._client.cut("client_reset")
        else:
            self.due = min(self.due, time.monotonic() + _AFTER_FIN)

    def _is_broken_off(self) -> bool:
        """Whether the client sends nothing any more, and what it has sent of the request is not the whole."""
        return self._client.eof and self._outgoing.lacks_more

    def upstream_drained(self) -> None:
        with ClosingOnFailure(self._client):
            try:
                self.request_bytes()
                self._client.balance()
            except BodyError as error:
                self.refuse_body(error)

    # The response. A connection that was being made when the exchange ended is let go of a moment later: what it
    # says until then would be an answer to the next request.

    def response_bytes(self, data: bytes) -> None:
        if self._over:
            return
        try:
            self._pass_response(data)
        except (ResponseError, OversizeError, BodyError) as error:
            self._client.log_bad_response(str(error), self.grant.id)
            self._fail(UpstreamFailure("response"))
        except UpstreamProxyError as error:
            self._client.services.ways.count(error)
            self._fail(answers.not_dialled(error))
        except EchoError as error:
            self._client.log_bad_response(str(error), self.grant.id)
            self._end(ECHOED)
            self._answer(answers.echoed(str(error), self.grant.decision, self.grant.id))
        except Exception:  # noqa: BLE001  logged there; whatever it was, nothing of it may go on
            self._client.failed()

    def _pass_response(self, data: bytes) -> None:
        self._last_byte = time.monotonic()
        incoming = self._incoming
        out: list[bytes] = []
        incoming.add(data, out)
        ended = (incoming.head is not None or self._begin_response(out)) and incoming.read_body(out)
        self._write_down(incoming.released(out, ended=ended))
        if self._client.eof and self._relay is None:
            self.due = self._last_byte + _AFTER_FIN
        if ended:
            self._received()

    def _begin_response(self, out: list[bytes]) -> bool:
        """Whether the final head has been read."""
        incoming = self._incoming
        response = incoming.read_head(out)
        if response is None:
            return False
        if response.status == SWITCHING_PROTOCOLS:
            self._write_down(out)  # what came before: behind the 101 it would stand among the frames
            out.clear()
            self._switch(response)
            return False
        self.due = NEVER
        withheld = self._body.may_never_come and not incoming.started
        if not self._head.keep_alive or self._client.services.stopping() or withheld:
            self.last = True
        incoming.begin(response, out, close=self.last)
        return True

    def _write_down(self, out: list[bytes]) -> None:
        if not out:
            return
        data = b"".join(out)
        self.grant.charge.down(len(data))
        self._client.transport.write(data)
        if self._client.full and self._outgoing.upstream is not None and not self._outgoing.upstream.ended:
            self._outgoing.upstream.transport.pause_reading()

    def client_drained(self) -> None:
        if self._outgoing.upstream is not None and not self._outgoing.upstream.ended:
            self._outgoing.upstream.transport.resume_reading()

    def _received(self) -> None:
        self.received = True
        # An early answer: the request goes on to its end, unless nobody is there to take it.
        upstream = self._outgoing.upstream
        if self._body.complete or self.last or upstream is None or upstream.ended:
            self._complete()

    def upstream_ended(self, *, broken: bool) -> None:
        """The upstream has closed its connection, or (`broken`) lost it. A response may end so, and be whole."""
        if self._over:
            return
        with ClosingOnFailure(self._client):
            if self.received:
                self._complete()
            elif self._incoming.ends_with_connection and not broken:
                self._write_down(self._incoming.end_with_connection())
                self.received = True
                self._complete()
            elif self._incoming.untouched and self._outgoing.may_go_again:
                # A kept connection had been closed before the request met it (RFC 9112, section 9.3.1).
                self._outgoing.upstream = None
                self._reach.dial(self)
            else:
                self._fail(UpstreamFailure("response"))

    # WebSocket.

    def _switch(self, response: ResponseHead) -> None:
        upstream = self._outgoing.upstream
        if upstream is None:
            raise ValueError("a response without an upstream")
        self.due = NEVER
        self._write_down([response.encode(None, minor=1, close=False)])
        self._relay = join(self._client, upstream, self._incoming, self.grant, on_end=self._relay_ended)

    def _relay_ended(self, cause: str) -> None:
        self._relay = self._outgoing.upstream = None
        self._end(cause)
        self._client.forget()
