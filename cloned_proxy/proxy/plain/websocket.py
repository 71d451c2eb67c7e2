"""A WebSocket (RFC 6455): from the `101` on the connection is a tunnel like any other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from cloned_proxy.proxy.body import Buffer
from cloned_proxy.proxy.budget import Charge
from cloned_proxy.proxy.plain.upstream import Upstream
from cloned_proxy.proxy.relay import Relay


def join(
    client: asyncio.Transport,
    upstream: Upstream,
    unread: Buffer,
    charge: Charge,
    *,
    full: bool,
    on_end: Callable[[str], None],
) -> Relay:
    """Relays between the two from now on; `unread` is what the client has sent ahead, `full` that it does not read.

    `on_end` is not called for a relay that is not `started`: the client was gone.
    """
    relay = Relay(client, lambda: unread.take(len(unread)), charge, on_end=on_end, clock=time.monotonic)
    relay.client.full = full
    upstream.hand_over(relay.upstream)
    return relay
