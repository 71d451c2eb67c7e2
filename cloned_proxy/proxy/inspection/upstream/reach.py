"""The dial of an inspected request, for every version of HTTP."""

from __future__ import annotations

import asyncio
import time

from cloned_proxy.proxy.grants.grant import Grant
from cloned_proxy.proxy.upstream.ways import Ways
from cloned_proxy.telemetry.metrics import Metrics


async def reach(grant: Grant, ways: Ways, metrics: Metrics) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to the target of the grant, without TLS yet. Raises DialError, ExhaustedError."""
    started = time.perf_counter()
    sock = await ways.connect(grant)
    metrics.upstream_connected(time.perf_counter() - started)
    return await asyncio.open_connection(sock=sock)
