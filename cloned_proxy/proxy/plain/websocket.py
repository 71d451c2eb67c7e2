"""A WebSocket (RFC 6455): from the `101` on the connection is a tunnel like any other."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from cloned_proxy.proxy.grants.grant import Grant
from cloned_proxy.proxy.http1.incoming import Incoming
from cloned_proxy.proxy.http1.upstream import PlainUpstream
from cloned_proxy.proxy.secrets.frames import EchoGuard
from cloned_proxy.proxy.transport.relay import Relay

if TYPE_CHECKING:
    from cloned_proxy.proxy.plain.client import PlainClient


def join(
    client: PlainClient, upstream: PlainUpstream, incoming: Incoming, grant: Grant, *, on_end: Callable[[str], None]
) -> Relay | None:
    """Relays between the two from now on, what each has sent ahead first: `incoming` has read the `101`.

    No frame of the upstream that holds one of its secrets goes on. `on_end` is told the cause when both are closed:
    within this call, which returns None, for a client that has gone.
    """
    metrics, tool, buffer = client.services.metrics, grant.caller.tool, client.intake.buffer

    def ended(cause: str) -> None:
        metrics.tunnel_closed(tool)
        on_end(cause)

    metrics.tunnel_opened(tool)
    relay = Relay(
        client.transport,
        lambda: buffer.take(len(buffer)),
        grant.charge,
        on_end=ended,
        clock=time.monotonic,
        guard=EchoGuard(incoming.secrets) if incoming.secrets is not None else None,
    )
    relay.client.full = client.full
    upstream.hand_over(relay.upstream)
    if not relay.started:
        ended("client_reset")
        return None
    if first := incoming.take_rest():
        relay.upstream.data_received(first)
    if client.eof:
        relay.client.eof_received()  # the loop told it to the old protocol, and will not tell it again
    return relay
