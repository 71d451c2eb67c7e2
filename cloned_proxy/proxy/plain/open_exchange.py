"""A granted plain request as the record and the registry of tunnels know it: what it holds, and how it ends."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from cloned_proxy.policy.terms.vocabulary import Reason
from cloned_proxy.proxy.enforce import answers
from cloned_proxy.proxy.enforce.answers import UpstreamFailure
from cloned_proxy.proxy.grants.grant import Grant
from cloned_proxy.proxy.http1.incoming import Incoming
from cloned_proxy.proxy.http1.outgoing import Outgoing
from cloned_proxy.proxy.plain.kept_client import NEVER
from cloned_proxy.proxy.plain.reach import Reach
from cloned_proxy.proxy.secrets.leak import LeakError
from cloned_proxy.proxy.transport.relay import Relay
from cloned_proxy.proxy.tunnel.closing import ClosingOnFailure
from cloned_proxy.proxy.wire.body import BodyError
from cloned_proxy.proxy.wire.client_hello import Unread
from cloned_proxy.proxy.wire.fields import asks_for_websocket
from cloned_proxy.proxy.wire.head import Head, HeadError

if TYPE_CHECKING:
    from cloned_proxy.proxy.plain.client import PlainClient


class OpenExchange:
    """A `Tunnel` for the sweep, without a ClientHello to check. The exchange is over once its grant has gone back."""

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
        self.due = NEVER
        """When the response must have begun, or gone on for a client that has sent FIN; monotonic."""
        self._last_byte = time.monotonic()

    # How it is ended.

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
        with ClosingOnFailure(self._client):
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
        self.due = NEVER
        services = self._client.services
        services.tunnels.discard(self)
        services.enforcer.finish(self.grant, cause)
        complete = self.received and self._body.complete
        self._reach.end(self._outgoing.upstream, complete=complete, clean=self._incoming.leaves_upstream_clean)

    # For the registry of tunnels.

    def last_byte(self) -> float:
        """As of `Tunnel`."""
        return self._last_byte if self._relay is None else self._relay.last_byte
