"""One request and its response on an inspected connection, from its head to its end."""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from cloned_proxy.proxy.answers import Answer, UpstreamFailure
from cloned_proxy.proxy.grant import Grant
from cloned_proxy.proxy.head import Head
from cloned_proxy.proxy.inspection.examiners import Admitted, Filters, UnfitError
from cloned_proxy.proxy.relay_guard import RelayGuard

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

    def turn_away(self, error: UnfitError) -> None:
        """The response must not go on; what is sent of it is up to whoever knows whether it has begun."""
        _log.info(
            "an upstream's response was refused",
            problem=str(error),
            decision=self.grant.id if self.grant is not None else None,
        )
        self.failure, self.cause, self.answer = None, error.cause, error.answer
