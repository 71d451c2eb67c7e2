"""The ways out: to an address of the grant directly, or through the proxy in front, and then never past it.

Every connection to an upstream is made here: of tunnels, of plain HTTP, of inspected requests.
"""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from cloned_proxy.policy.terms.rule import Address
from cloned_proxy.proxy.grants.grant import Grant
from cloned_proxy.proxy.upstream.chained.chained_dial import ChainedDial
from cloned_proxy.proxy.upstream.chained.connect_answer import connect_request
from cloned_proxy.proxy.upstream.chained.failure import Trouble, UpstreamProxyError, too_slow
from cloned_proxy.proxy.upstream.chained.front import UpstreamProxy, not_connected
from cloned_proxy.proxy.upstream.dial import Dial, DialAttempt, DialError, DialOutcome, ExhaustedError, awaited
from cloned_proxy.proxy.wire.fields import ProxyHop


class KnownWay(NamedTuple):
    """What somebody needs who dials by himself what a grant permits: the native plane."""

    addresses: tuple[Address, ...]
    """All checked: of the target, or of the proxy in front."""
    port: int
    request: bytes
    """What the proxy in front is told first; empty where the way is direct."""
    seconds: float
    """For so long it is the way, if the target's own addresses are; infinite where nothing ends it."""


class Ways:
    """One for each process."""

    def __init__(
        self,
        upstream: UpstreamProxy | None = None,
        *,
        connect_timeout: float,
        on_trouble: Callable[[Trouble], None] = lambda _: None,
    ) -> None:
        """`connect_timeout` (seconds) bounds each connection. `on_trouble` hears what the proxy in front fails with."""
        self._upstream: Final = upstream
        self._seconds: Final = connect_timeout
        self._on_trouble: Final = on_trouble

    def chained(self, grant: Grant) -> bool:
        """Whether what the grant permits goes through the proxy in front."""
        return self._upstream is not None and self._upstream.takes(grant)

    def attempt(self, grant: Grant, on_end: Callable[[DialOutcome], None]) -> DialAttempt:
        """A connection to the target of the grant; `on_end` as with `Dial`."""
        upstream = self._upstream
        if upstream is None or not upstream.takes(grant):
            return Dial(grant.addresses, grant.decision.request.port, seconds=self._seconds, on_end=on_end)

        return ChainedDial(upstream, grant, on_end=self._counting(on_end))

    def _counting(self, on_end: Callable[[DialOutcome], None]) -> Callable[[DialOutcome], None]:
        def counted(outcome: DialOutcome) -> None:
            self.count(outcome)
            on_end(outcome)

        return counted

    def answered(
        self, grant: Grant, asked: tuple[socket.socket, float], on_end: Callable[[DialOutcome], None]
    ) -> DialAttempt:
        """The rest of an attempt that was begun by a `KnownWay`: what the proxy in front says is to be judged.

        `asked` is the connection, and the seconds that are left.
        """
        if self._upstream is None:
            raise ValueError("there is no proxy in front")
        return ChainedDial(self._upstream, grant, on_end=self._counting(on_end), asked=asked)

    def failed(self, grant: Grant, outcome: DialOutcome) -> DialOutcome:
        """A dial by a `KnownWay` that failed, as what it was; counted."""
        if isinstance(outcome, DialError) and self.chained(grant):
            outcome = not_connected(outcome)
            self.count(outcome)
        return outcome

    def known(self, grant: Grant) -> KnownWay | None:
        """The way that `attempt` would take; None where only that can tell: names to look up, TLS, PAC files."""
        upstream, port = self._upstream, grant.decision.request.port
        if upstream is None or not upstream.takes(grant):
            return KnownWay(grant.addresses, port, b"", math.inf)
        try:
            addresses = upstream.known_addresses()
            if addresses is None:
                return None
            request = connect_request(upstream.targets(grant)[0], port, upstream.credential())
        except UpstreamProxyError:
            return None  # the attempt, which fails as well, says why
        return KnownWay(addresses, upstream.port, request, upstream.lasts())

    def front_now(self) -> object:
        """Equal to what it was before: every `KnownWay` is still one, until its time is over."""
        return None if self._upstream is None else self._upstream.now()

    async def connect(self, grant: Grant) -> socket.socket:
        """`attempt` for those who wait. Raises as `awaited`."""
        return await awaited(partial(self.attempt, grant))

    async def connect_to_front(self, grant: Grant) -> tuple[socket.socket, ProxyHop]:
        """To the proxy in front itself, and what a request in absolute form tells it. Raises as `connect`."""
        if self._upstream is None:
            raise ValueError("there is no proxy in front")
        try:
            hop = ProxyHop(self._upstream.credential())
            async with asyncio.timeout(self._seconds):
                return await self._upstream.connect(grant, tunnel=False), hop
        except TimeoutError:
            error = too_slow()
            self.count(error)
            raise error from None
        except (DialError, ExhaustedError) as error:
            self.count(error)
            raise

    def count(self, outcome: DialOutcome) -> None:
        """Counts what went wrong with the proxy in front."""
        if isinstance(outcome, UpstreamProxyError):
            self._on_trouble(outcome.trouble)
