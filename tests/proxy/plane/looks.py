"""Looks into a native plane, and a tunnel through it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from cloned_proxy.policy.callers.caller import Principal
from cloned_proxy.proxy.plane.plane import Plane
from cloned_proxy.proxy.plane.verdicts import Published
from tests.proxy.support import (
    World,
    hello,
)

DEMO: Final = Principal("demo@v1")


def plane_of(w: World) -> Plane:
    assert w.plane is not None
    return w.plane


def published(w: World) -> list[Published]:
    return list(plane_of(w)._verdicts.known.values())


def granted(w: World) -> int:
    """How many requests the plane has granted by itself."""
    verdicts = plane_of(w)._verdicts
    return sum(verdicts.counts(each)[0][0] for each in published(w))


@contextlib.asynccontextmanager
async def tunnel(w: World, port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await w.tunnel(port)
    await reader.readexactly(len(hello()))
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
