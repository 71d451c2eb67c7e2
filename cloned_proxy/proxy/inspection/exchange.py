"""One request and its response on an inspected connection, from its head to its end."""

from __future__ import annotations

from dataclasses import dataclass

from cloned_proxy.proxy.answers import Answer, UpstreamFailure
from cloned_proxy.proxy.grant import Grant
from cloned_proxy.proxy.head import Head
from cloned_proxy.proxy.injection import Injection


@dataclass(slots=True, eq=False)
class Exchange:
    head: Head
    last: bool
    """Whether the client connection closes behind it."""
    grant: Grant | None = None
    """Without one nothing is dialled and nothing sent."""
    injection: Injection | None = None
    """What the rule of the grant adds to the request; its response is searched for it."""
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
    cause: str = ""
    """Why it ended early, for the record."""
