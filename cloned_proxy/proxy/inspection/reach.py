"""The dial of an inspected request, for every version of HTTP: to a checked address of its grant, and to no other."""

from __future__ import annotations

import asyncio
import time

from cloned_proxy.proxy.dial import dial
from cloned_proxy.proxy.grant import Grant
from cloned_proxy.store.config import ProxySettings
from cloned_proxy.telemetry.metrics import Metrics


async def reach(
    grant: Grant, settings: ProxySettings, metrics: Metrics
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection, without TLS yet. Raises DialError, ExhaustedError."""
    started = time.perf_counter()
    sock = await dial(grant.addresses, grant.decision.request.port, seconds=settings.connect_timeout)
    metrics.upstream_connected(time.perf_counter() - started)
    return await asyncio.open_connection(sock=sock)
