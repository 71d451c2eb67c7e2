"""What a request sees of its upstream, whichever version of HTTP is spoken there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from hpack import HeaderTuple

from cloned_proxy.policy.terms.rule import Host
from cloned_proxy.proxy.enforce.answers import UpstreamFailure
from cloned_proxy.proxy.inspection.certificates.tls import Sessions
from cloned_proxy.proxy.inspection.connections import heads
from cloned_proxy.proxy.inspection.connections.pipe import Pipe, Trailers
from cloned_proxy.proxy.inspection.examining.examiners import Filters, ResponseSeen
from cloned_proxy.proxy.secrets.injection import Injection
from cloned_proxy.proxy.upstream.ways import Ways
from cloned_proxy.proxy.wire.fields import asks_for_websocket
from cloned_proxy.proxy.wire.head import Head
from cloned_proxy.store.settings.config import ProxySettings
from cloned_proxy.telemetry.metrics import Metrics


class UpstreamLostError(Exception):
    """The exchange cannot go on. The message is for the log.

    `unprocessed`: the upstream has said, or cannot but have, that it did nothing about the request.
    """

    def __init__(self, message: str, *, failure: UpstreamFailure | None = None, unprocessed: bool = False) -> None:
        super().__init__(message)
        self.failure = failure or UpstreamFailure("response")
        self.unprocessed = unprocessed


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    """The head of a request as it goes upstream."""

    head: Head
    host: Host
    fields: Sequence[tuple[bytes, bytes]]
    """For HTTP/1.1, Host first."""
    injection: Injection | None
    ended: bool
    """Whether no body follows."""
    trailers: bool
    """Whether those of the response are wanted."""
    interim: Callable[[], None]
    """Is called when the upstream asks for the body (100)."""

    @property
    def upgrades(self) -> bool:
        """Whether it asks for a WebSocket."""
        return asks_for_websocket(self.head)

    def block(self) -> Sequence[HeaderTuple]:
        """For HTTP/2."""
        return heads.request_block(self.head, self.host, self.fields, self.injection)


class UpstreamExchange(Protocol):
    """One request and its response. Its methods raise UpstreamLostError."""

    body: Pipe
    """The fields of the response."""
    head: asyncio.Future[ResponseSeen]

    async def send(self, piece: bytes) -> None:
        """A piece of the request's body, as fast as the upstream takes it."""

    async def end(self, trailers: Trailers) -> None:
        """Ends the request body behind its last piece."""

    def fail(self, error: UpstreamLostError) -> None:
        """Ends it for whoever waits for its head or its body."""

    async def lost(self) -> None:
        """Waits until nobody is there any more to take the rest of the request."""

    def close(self) -> None:
        """After the last byte, or before: what is not complete is broken off, and nothing more comes of it."""


async def send_body(
    pipe: Pipe, exchange: UpstreamExchange, filters: Filters | None, went_up: Callable[[bytes], None]
) -> None:
    """All of a request's body, through its filters. Raises UpstreamLostError, UnfitError, BrokenBodyError."""
    while (piece := await pipe.take()) is not None:
        passed = piece if filters is None else filters.feed(piece)
        if passed:
            went_up(passed)
            await exchange.send(passed)
    if filters is not None and (rest := filters.rest()):
        went_up(rest)
        await exchange.send(rest)
    await exchange.end(pipe.trailers if filters is None else filters.trailers(list(pipe.trailers)))


class Upstream(Protocol):
    """One connection."""

    @property
    def free(self) -> bool:
        """Whether another request may begin on it now."""

    def idle_for(self) -> float:
        """Seconds for which the server may have been about to close it without a word; 0.0 where none does that."""

    async def run(self) -> None:
        """Until it is closed."""

    def open(self, outgoing: UpstreamRequest) -> UpstreamExchange: ...

    def abort(self) -> None: ...

    def close(self) -> None:
        """In order, one on which nothing is under way."""


@dataclass(frozen=True, slots=True)
class UpstreamServices:
    sessions: Sessions
    settings: ProxySettings
    metrics: Metrics
    ways: Ways
