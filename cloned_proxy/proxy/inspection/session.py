"""What the protocol layers ask of the client connection that they belong to."""

from __future__ import annotations

from typing import Protocol

from mitmproxy.connection import Connection

from cloned_proxy.proxy.head import Head, HeadError
from cloned_proxy.proxy.inspection.exchange import Exchange


class Session(Protocol):
    """What the layers ask of the connection that they belong to."""

    doomed: bool
    """Ends in a reset instead of a polite close."""
    max_head_bytes: int
    max_head_fields: int
    refuses_http1: bool
    """The upstream speaks HTTP/2 alone."""
    unsent: int
    """Bytes of a request's body that its upstream does not take yet."""

    @property
    def current(self) -> Exchange:
        """The exchange at hand. Raises UndecidedError when no head was read."""

    def head_began(self) -> None: ...

    def head_read(self, head: Head) -> None: ...

    def refuse_head(self, error: HeadError) -> None:
        """Puts the refusal on record and prepares its answer."""

    def response_began(self) -> None: ...

    def response_failed(self, problem: str) -> None:
        """The upstream broke off, or what it sent is refused."""

    def response_ended_early(self) -> None:
        """The client has the whole of it while its request is still on its way."""

    def exchange_ended(self) -> None: ...

    def last_words(self) -> bytes:
        """What the client is told before it is closed; `b""` when it has already been sent a part of a response."""

    def held(self, count: int) -> None:
        """So many bytes of a response are held until it is complete. Ends it when they are too many."""

    def idle_for(self) -> float:
        """Seconds since the last exchange has ended: so long its upstream connection has been unused."""

    def retire(self, server: Connection) -> None:
        """Closes an upstream connection that is of no further use."""
