"""A tunnel that is opened: its connection goes to the inspector, and comes back with a cause."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from cloned_proxy.policy.terms.vocabulary import Reason
from cloned_proxy.proxy.grants.grant import Grant
from cloned_proxy.proxy.inspection import Inspector
from cloned_proxy.proxy.tunnel.connection import ClientConnection


async def serve_inspected(
    connection: ClientConnection,
    inspector: Inspector,
    grant: Grant,
    *,
    on_begin: Callable[[], None],
    on_end: Callable[[str], None],
) -> None:
    """Until it ends. `on_end` is called once, with the cause that goes on record."""
    connection.settling = None
    cause = Reason.INTERNAL_ERROR.value
    try:
        on_begin()
        reader, writer = connection.hand_over()
        try:
            await inspector.serve_tunnel(grant, reader, writer)
        finally:
            connection.release()
        cause = connection.cause or "closed"
    except asyncio.CancelledError:
        cause = connection.cause or "client_reset"
        raise
    finally:
        on_end(cause)
