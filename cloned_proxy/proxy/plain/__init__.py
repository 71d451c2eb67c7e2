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
from cloned_proxy.proxy.tunnel.client import Client
from cloned_proxy.proxy.wire.head import Head


class PlainHttp:
    """One for each gate: its plain HTTP clients and the pool they share."""

    def __init__(self, review: Callable[[Grant], Decision]) -> None:
        self.pool: Final = PlainPool(review)
        self._clients: set[PlainClient] = set()

    def serve(self, client: Client, head: Head) -> None:
        """Takes over a client whose first head is not a CONNECT."""
        client.owner = plain = PlainClient(self._clients, self.pool, client)
        plain.start(head)

    def resume(self, client: Client, at: bytes | Underway) -> None:
        """Takes over a client whose requests the native plane has served so far: the bytes of the next, or one."""
        client.owner = plain = PlainClient(self._clients, self.pool, client)
        if isinstance(at, bytes):
            plain.start_between(at)
        else:
            plain.go_on(at)

    def sweep(self) -> None:
        """Deadlines are looked at here, once a second, instead of with timers for each request."""
        now = time.monotonic()
        for client in tuple(self._clients):
            client.check(now)
        self.pool.sweep()

    def close(self) -> None:
        """Closes the idle connections to upstreams."""
        self.pool.close()
