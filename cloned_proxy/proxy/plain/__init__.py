"""Plain HTTP/1.1 in absolute form, forwarded by the gate itself: every request decided, upstream connections kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from cloned_proxy.policy.terms.decision import Decision
from cloned_proxy.proxy.grants.grant import Grant
from cloned_proxy.proxy.http1.underway import Underway
from cloned_proxy.proxy.http1.upstream import PlainPool
from cloned_proxy.proxy.plain.client import PlainClient
from cloned_proxy.proxy.tunnel.connection import ClientConnection
from cloned_proxy.proxy.wire.head import Head


class PlainHttp:
    """One for each gate: its plain HTTP clients and the pool they share."""

    def __init__(self, review: Callable[[Grant], Decision]) -> None:
        self.pool: Final = PlainPool(review)
        self._clients: set[PlainClient] = set()

    def serve(self, connection: ClientConnection, head: Head) -> None:
        """Takes over a connection whose first head is not a CONNECT."""
        client = PlainClient(self._clients, self.pool, connection)
        connection.plain = client
        client.start(head)

    def resume(self, connection: ClientConnection, at: bytes | Underway) -> None:
        """Takes over a connection whose requests the native plane has served so far: the bytes of the next, or one."""
        client = PlainClient(self._clients, self.pool, connection)
        connection.plain = client
        if isinstance(at, bytes):
            client.start_between(at)
        else:
            client.go_on(at)

    def sweep(self) -> None:
        """Deadlines are looked at here, once a second, instead of with timers for each request."""
        now = time.monotonic()
        for client in tuple(self._clients):
            client.check(now)
        self.pool.sweep()

    def close(self) -> None:
        """Closes the idle connections to upstreams."""
        self.pool.close()
