"""The upstream of one tunnel, until its relay has it: a dial, and then a connected socket."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from socket import socket as Socket  # noqa: N812  the type, beside variables of that name

from cloned_proxy.proxy.grants.grant import Grant
from cloned_proxy.proxy.transport.relay import Relay
from cloned_proxy.proxy.tunnel.parts import GateParts
from cloned_proxy.proxy.upstream.dial import DialAttempt, DialOutcome, join


class TunnelUpstream:
    """What is not handed on when the tunnel ends is closed here, in whatever state it is."""

    __slots__ = ("_dial", "_dialled_at", "_grant", "_parts", "connected")

    def __init__(self, parts: GateParts, grant: Grant) -> None:
        self._parts = parts
        self._grant = grant
        self._dial: DialAttempt | None = None
        self._dialled_at = 0.0
        self.connected: Socket | None = None
        """Connected, and not in a relay yet."""

    def dial(self, dialled: Callable[[DialOutcome], None]) -> None:
        """`dialled` is called once, unless this is closed before."""
        self._dialled_at = time.perf_counter()
        self._dial = self._parts.ways.attempt(self._grant, partial(self._dial_ended, dialled))
        self._dial.start()

    def hear(self, front: Socket, seconds: float, dialled: Callable[[DialOutcome], None]) -> None:
        """In the place of `dial`: the proxy in front was asked already, and has `seconds` left to answer."""
        self._dialled_at = time.perf_counter() - self._parts.settings.connect_timeout + seconds
        self._dial = self._parts.ways.answered(self._grant, (front, seconds), partial(self._dial_ended, dialled))
        self._dial.start()

    def _dial_ended(self, dialled: Callable[[DialOutcome], None], outcome: DialOutcome) -> None:
        self._dial = None
        dialled(outcome)

    def reached(self, sock: Socket) -> None:
        """The dial has brought this."""
        self.connected = sock
        self._parts.metrics.upstream_connected(time.perf_counter() - self._dialled_at)

    async def join(self, relay: Relay) -> None:
        """Gives the socket to the loop, which takes it over at its next turn, and with it the relay.

        Raises whatever went wrong with it; then the socket is closed.
        """
        sock, self.connected = self.connected, None
        if sock is None:
            raise ValueError("a relay without an upstream")
        try:
            await join(sock, lambda: relay.upstream)
        except Exception:
            sock.close()
            raise

    def close(self) -> None:
        dial, self._dial = self._dial, None
        if dial is not None:
            dial.cancel()
        sock, self.connected = self.connected, None
        if sock is not None:
            sock.close()
