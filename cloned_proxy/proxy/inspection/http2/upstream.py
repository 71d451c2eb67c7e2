"""What a request sees of its upstream, whichever version of HTTP is spoken there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from hpack import HeaderTuple

from cloned_proxy.proxy.answers import UpstreamFailure
from cloned_proxy.proxy.head import Head
from cloned_proxy.proxy.inspection.examiners import Filters, ResponseSeen
from cloned_proxy.proxy.inspection.http2.pipe import Pipe, Trailers
from cloned_proxy.proxy.inspection.tls import Sessions
from cloned_proxy.proxy.ways import Ways
from cloned_proxy.store.config import ProxySettings
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
class Outgoing:
    """The head of a request as it goes upstream."""

    head: Head
    fields: Sequence[tuple[bytes, bytes]]
    """For HTTP/1.1, Host first."""
    block: Sequence[HeaderTuple]
    """For HTTP/2."""
    ended: bool
    """Whether no body follows."""
    interim: Callable[[], None]
    """Told when the upstream asks for the body (100)."""


class UpstreamExchange(Protocol):
    """One request and its response. Its methods raise UpstreamLostError."""

    body: Pipe
    """Of the response."""
    head: asyncio.Future[ResponseSeen]

    async def send(self, piece: bytes) -> None:
        """A piece of the request's body, as fast as the upstream takes it."""

    async def end(self, trailers: Trailers) -> None:
        """Behind the last piece."""

    def fail(self, error: UpstreamLostError) -> None:
        """Ends it for whoever waits for its head or its body."""

    def close(self) -> None:
        """After the last byte, or before: what is not complete is broken off, and nothing more comes of it."""


async def send_body(
    pipe: Pipe, exchange: UpstreamExchange, filters: Filters | None, went_up: Callable[[int], None]
) -> None:
    """All of a request's body, through its filters. Raises UpstreamLostError, UnfitError, BrokenBodyError."""
    while (piece := await pipe.take()) is not None:
        passed = piece if filters is None else filters.feed(piece)
        if passed:
            went_up(len(passed))
            await exchange.send(passed)
    if filters is not None and (rest := filters.rest()):
        went_up(len(rest))
        await exchange.send(rest)
    await exchange.end(pipe.trailers if filters is None else filters.trailers(list(pipe.trailers)))


class Upstream(Protocol):
    """One connection."""

    @property
    def free(self) -> bool:
        """Whether another request may begin on it now."""

    @property
    def fresh(self) -> bool:
        """Whether the server has no reason to be closing it: unused, in use, or just used."""

    async def run(self) -> None:
        """Until it is closed."""

    def open(self, outgoing: Outgoing) -> UpstreamExchange: ...

    def abort(self) -> None: ...


@dataclass(frozen=True, slots=True)
class UpstreamParts:
    sessions: Sessions
    settings: ProxySettings
    metrics: Metrics
    ways: Ways
