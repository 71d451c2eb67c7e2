"""The escape probe as a canary inside `serve`, at an interval; `proxy.serving.probing` puts its outcome on record."""

from __future__ import annotations

import asyncio
from typing import Final

from cloned_proxy.proxy.serving.probing import Prober

SHORTEST: Final = 30.0
"""Seconds: a probe takes about five of them, and starts containers."""
ACTOR: Final = "canary"


async def probe_forever(prober: Prober, interval: float) -> None:
    """Probes each `interval` seconds until cancelled; one that a person has just asked for will do as well."""
    while True:
        await prober.probe(ACTOR)
        await asyncio.sleep(max(interval, SHORTEST))
