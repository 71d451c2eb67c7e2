"""One granted request and its response, from the first byte to an upstream to the last byte to the client."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from cloned_proxy.policy.terms.vocabulary import Reason
from cloned_proxy.proxy.enforce import answers
from cloned_proxy.proxy.enforce.answers import UpstreamFailure
from cloned_proxy.proxy.enforce.tunnels import response_seconds
from cloned_proxy.proxy.grants.grant import Grant
from cloned_proxy.proxy.http1.incoming import Incoming
from cloned_proxy.proxy.http1.outgoing import Outgoing
from cloned_proxy.proxy.http1.underway import Underway
from cloned_proxy.proxy.http1.upstream import PlainUpstream
from cloned_proxy.proxy.plain.reach import Reach
from cloned_proxy.proxy.plain.websocket import join
from cloned_proxy.proxy.secrets.echo import ECHOED, EchoError
from cloned_proxy.proxy.secrets.injection import InjectionError
from cloned_proxy.proxy.secrets.leak import LeakError
from cloned_proxy.proxy.transport.relay import Relay
from cloned_proxy.proxy.transport.reset import reset_socket
from cloned_proxy.proxy.upstream.chained.failure import UpstreamProxyError
from cloned_proxy.proxy.upstream.dial import DialError, ExhaustedError
from cloned_proxy.proxy.wire.body import BodyError, OversizeError
from cloned_proxy.proxy.wire.client_hello import Unread
from cloned_proxy.proxy.wire.fields import asks_for_websocket
from cloned_proxy.proxy.wire.head import Head, HeadError
from cloned_proxy.proxy.wire.response import SWITCHING_PROTOCOLS, ResponseError, ResponseHead

if TYPE_CHECKING:
    from cloned_proxy.proxy.plain.client import PlainClient

_NEVER: Final = float("inf")
_AFTER_FIN: Final = 4.0
"""Seconds that a response may be quiet when the client has sent FIN: few wait for it then, most have left."""


class PlainExchange:
    """Owned by its client connection, and the conversation of the upstream connection that it holds.

    For the sweep it is a `Tunnel`, whose first bytes are nobody's question.
    """

    __slots__ = ("_body", "_client", "_head", "_incoming", "_last_byte", "_outgoing", "_over", "_reach", "_relay",
                 "due", "grant", "last", "received")  # fmt: skip

    server_names: Final = Unread.NEED_MORE

    def __init__(self, client: PlainClient, head: Head, grant: Grant) -> None:
        self._client = client
        self._head = head
        self.grant = grant
        self._body = client.intake.body
        self._outgoing = Outgoing(head, self._body, grant.charge.up, client.services.leaks.scanner(head))
        self._incoming = Incoming(head, client.services.settings)
        self._over = False
        self.last = False
        """The client connection closes behind this response, and was told so."""
        self.received = False
        """The response has been passed on to its end."""
        self._reach = Reach(client, grant, upgrades=asks_for_websocket(head))
        self._relay: Relay | None = None
        self.due = _NEVER
        """When the response must have begun, or gone on for a client that has sent FIN; monotonic."""
        self._last_byte = time.monotonic()

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
        try:
            self._outgoing.upstream = upstream
            upstream.transport.write(at.unsent)
            self._request_moved()
            self.request_bytes()
            if at.answer and not self._over:
                self.response_bytes(at.answer)
        except BodyError as error:
            self.refuse_body(error)
        except Exception:  # noqa: BLE001  logged there; whatever it was, the request must not go on
            self._client.failed()

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
        """A part of it has been written, or it was found to be complete."""
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
        try:
            self.request_bytes()
            self._client.balance()
        except BodyError as error:
            self.refuse_body(error)
        except Exception:  # noqa: BLE001  logged there; whatever it was, the request must not go on
            self._client.failed()

    # The response.

    def response_bytes(self, data: bytes) -> None:
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
            self._switch(response)
            return False
        self.due = _NEVER
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

    # The ends.

    def upstream_ended(self, *, broken: bool) -> None:
        try:
            self._upstream_ended(broken=broken)
        except Exception:  # noqa: BLE001  logged there; whatever it was, the client must not wait for more
            self._client.failed()

    def _upstream_ended(self, *, broken: bool) -> None:
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

    def timed_out(self) -> None:
        """The response did not begin in time, or fell silent behind the client's FIN."""
        if self._incoming.head is None:
            self._fail(UpstreamFailure("response", timed_out=True))
        else:
            self._client.cut("client_reset")

    def cut(self, cause: str) -> None:
        """Ends the exchange at once; the client connection is the caller's."""
        if self._relay is not None:
            self._relay.cut(cause)
        else:
            self._end(cause)

    def cut_off(self, cause: str) -> None:
        """The sweep cuts the exchange.

        A client that has got nothing yet is told why, like one that comes a moment later.
        """
        try:
            self._cut_off(cause)
        except Exception:  # noqa: BLE001  logged there; whatever it was, the request must not go on
            self._client.failed()

    def _cut_off(self, cause: str) -> None:
        enforcer = self._client.services.enforcer
        decision = enforcer.review(self.grant)
        if self._incoming.started or self._incoming.told or decision.passes:
            self._client.cut(cause)
            return
        refusal = enforcer.amend(self.grant, decision)
        self._end(cause)
        self._answer(answers.refused(refusal) if refusal is not None else answers.unavailable())

    def refuse_body(self, error: BodyError) -> None:
        """The request's body is malformed or holds a secret: what has gone upstream of it stays incomplete."""
        if isinstance(error, LeakError):
            self._refuse(Reason.SECRET_LEAK, secret=error.name)
            return
        self._end(f"refused:{Reason.MALFORMED_REQUEST.value}")
        if not self._incoming.told:
            self._client.refuse_head(HeadError(str(error)).about(self.grant.decision.request, self._head.fields))
        else:
            self._client.reset()

    def _fail(self, failure: UpstreamFailure) -> None:
        self._end(failure.cause)
        self._answer(answers.failed(failure, self.grant.decision, self.grant.id))

    def _refuse(self, reason: Reason, *, secret: str = "") -> None:
        refusal = self._client.services.enforcer.amend(self.grant, self.grant.decision.denied(reason, secret=secret))
        self._end(f"refused:{reason.value}")
        self._answer(answers.refused(refusal) if refusal is not None else answers.unavailable())

    def _answer(self, answer: answers.Answer) -> None:
        if self._incoming.told:
            # The client has a part of the response: it must not mistake the cut for the end.
            self._client.reset()
        else:
            self._client.answer(self._head, answer)

    def _complete(self) -> None:
        self._end("closed")
        self._client.exchange_ended(keep=self._body.complete and not self.last)

    def _end(self, cause: str) -> None:
        """Bookkeeping, and the upstream connection: kept when both messages are complete. Once."""
        if self._over:
            return
        self._over = True
        self.due = _NEVER
        services = self._client.services
        services.tunnels.discard(self)
        services.enforcer.finish(self.grant, cause)
        complete = self.received and self._body.complete
        self._reach.end(self._outgoing.upstream, complete=complete, clean=self._incoming.leaves_upstream_clean)

    # WebSocket.

    def _switch(self, response: ResponseHead) -> None:
        upstream = self._outgoing.upstream
        if upstream is None:
            raise ValueError("a response without an upstream")
        self.due = _NEVER
        self._write_down([response.encode(None, minor=1, close=False)])
        self._relay = join(self._client, upstream, self._incoming, self.grant, on_end=self._relay_ended)

    def _relay_ended(self, cause: str) -> None:
        self._relay = self._outgoing.upstream = None
        self._end(cause)
        self._client.forget()

    def last_byte(self) -> float:
        return self._last_byte if self._relay is None else self._relay.last_byte
