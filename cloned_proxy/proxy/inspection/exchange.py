"""One request and its response on an inspected connection, from its head to its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import structlog
from hpack import HeaderTuple

from cloned_proxy.proxy.answers import Answer, UpstreamFailure
from cloned_proxy.proxy.fields import request_fields
from cloned_proxy.proxy.grant import Grant
from cloned_proxy.proxy.head import Head
from cloned_proxy.proxy.inspection.examiners import Admitted, Filters, UnfitError
from cloned_proxy.proxy.inspection.http2 import heads
from cloned_proxy.proxy.plain.outgoing import longest_idle, repeatable
from cloned_proxy.proxy.relay_guard import RelayGuard, TurnedAwayError

_HTTPS_PORT: Final = 443

_log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class Exchange:
    head: Head
    last: bool
    """Whether the client connection closes behind it."""
    grant: Grant | None = None
    """Without one nothing is dialled and nothing sent."""
    admitted: Admitted | None = None
    """What the examiners are told; there with the grant."""
    filters: Filters | None = None
    """What the body of the response passes through; None for nothing."""
    answer: Answer | None = None
    """What the client is told instead of a response."""
    failure: UpstreamFailure | None = None
    asked: bool = False
    """Whether the request has been read to its end."""
    began: bool = False
    """Whether a part of the response has been sent."""
    received: bool = False
    """Whether the response has been sent to its end with the request still on its way."""
    upgraded: bool = False
    guard: RelayGuard | None = None
    """What looks at the bytes behind an upgrade."""
    cause: str = ""
    """Why it ended early, for the record."""
    retried: bool = False
    reused: bool = False
    """Whether it met a connection that another exchange had used."""
    copy: bytearray | None = None
    """What was sent of its body, while it may be sent again."""
    continued: bool = False
    """Whether its client was told to send the body that it announced with `Expect`."""
    body_began: bool = False

    @property
    def expects(self) -> bool:
        """Whether its client waits for `100 Continue` before it sends the body (RFC 9110, section 10.1.1)."""
        head = self.head
        if head.minor == 0 or not (head.chunked or head.content_length):
            return False
        return any(name == "expect" and value.lower() == "100-continue" for name, value in head.fields)

    @property
    def body_withheld(self) -> bool:
        """Whether another request may come in the place of the body: its client was never told to send that."""
        return self.expects and not self.continued and not self.body_began

    def continues(self) -> bool:
        """Whether a `100` of the upstream goes on to the client; once, and only to one that waits for it."""
        if not self.body_withheld or self.began:
            return False
        self.continued = True
        return True

    def may_reuse(self, idle: float) -> bool:
        """Whether it may meet a connection that was kept for so many seconds."""
        self.reused = not self.retried and idle <= longest_idle(self.head)
        self.copy = bytearray() if self.reused and repeatable(self.head) else None
        return self.reused

    def goes_again(self) -> bool:
        """Whether it is sent again, because the kept connection that it met was closed without a byte of a response."""
        if self.retried or not self.reused or self.copy is None or self.began or self.continued:
            return False
        self.retried = True
        return True

    def sent(self, piece: bytes) -> None:
        """A piece of its body goes upstream."""
        self.body_began = True
        if self.copy is not None:
            self.copy += piece

    def upgraded_bytes(self, data: bytes, *, up: bool) -> bytes:
        """What goes on of what came behind the upgrade. Raises TurnedAwayError."""
        if self.guard is not None:
            try:
                data = self.guard.from_client(data) if up else self.guard.from_server(data)
            except TurnedAwayError as refused:
                self.cause = refused.cause
                raise
        if self.grant is not None:
            (self.grant.charge.up if up else self.grant.charge.down)(len(data))
        return data

    def held_too_much(self, count: int) -> bool:
        """Whether so many bytes of the response, which are held until it is whole, are more than its filters hold."""
        if self.filters is None or self.cause:
            return False
        self.filters.came(count)
        if count <= self.filters.limit:
            return False
        self.turn_away(self.filters.too_long())
        return True

    def turn_away(self, error: UnfitError) -> None:
        """The response must not go on; what is sent of it is up to whoever knows whether it has begun."""
        _log.info(
            "an upstream's response was refused",
            problem=str(error),
            decision=self.grant.id if self.grant is not None else None,
        )
        self.failure, self.cause, self.answer = None, error.cause, error.answer


def block_of(exchange: Exchange) -> list[HeaderTuple]:
    """The head of an admitted request for an upstream of HTTP/2."""
    admitted = exchange.admitted
    if admitted is None or admitted.grant.decision.host is None:
        raise ValueError("a request without a grant")
    host = admitted.grant.decision.host
    fields = request_fields(admitted.head, host, default_port=_HTTPS_PORT, injection=admitted.injection)
    return heads.request_block(admitted.head, host, fields, admitted.injection)
