"""How a test waits: for the event itself, within a bound that only a fault reaches."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

BOUND: Final = 60.0
"""Seconds; a loaded machine needs some of them, and a test that goes well on a quiet one none."""


def eventually(condition: Callable[[], object], seconds: float = BOUND, what: str = "the condition") -> float:
    """Waits until the condition holds; returns how long that took. `seconds` only bound what never comes true."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > seconds:
            raise AssertionError(f"{what} did not come true within {seconds} s")
        time.sleep(0.01)
    return time.monotonic() - started


async def until(condition: Callable[[], object], seconds: float = BOUND) -> None:
    """As `eventually`, on the event loop: for what has no event of its own. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  see above
            await asyncio.sleep(0.005)
