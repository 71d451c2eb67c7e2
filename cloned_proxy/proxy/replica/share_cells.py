"""One tool's share of its limits, in cells: of several workers one asks the store, and all of them look."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from cloned_proxy.policy.model.model import Limits
from cloned_proxy.proxy.grants.cells import Cells

WIDTH: Final = 6
"""Cells of a tool's share; the first one is of what a dead worker had open, by convention, and so of nothing here."""
PARTS: Final = slice(1, 4)
ENDS, WANTED = 4, 5


@dataclass(slots=True)
class Share:
    """The shares of all tools as one process sees them."""

    cells: Cells
    asking: asyncio.Task[None] | None = None
    dry_until: float = 0.0
    """Uptime."""
    asked: float = 0.0
    told: bool = True
    """Whether the store knows it, as far as this side knows."""
    sharers: int = 1
    known: tuple[Limits, tuple[int, ...], Limits] | None = None
    """The policy's limits and the parts, with the smaller limits that they make."""

    @property
    def parts(self) -> tuple[int, ...]:
        return tuple(self.cells.values[PARTS])

    @property
    def ends(self) -> float:
        """Uptime after which it must not be used."""
        return self.cells.values[ENDS] / 1e6

    def hold(self, parts: Sequence[int]) -> None:
        """Sets what of each limit is here."""
        for place, part in enumerate(parts, PARTS.start):
            self.cells.values[place] = max(0, int(part))

    def grew(self, before: tuple[int, ...]) -> bool:
        """Whether there is more of any limit than before."""
        return any(now > then for now, then in zip(self.parts, before, strict=True))


def smaller(limits: Limits, shared: Limits, parts: tuple[int, ...]) -> Limits:
    """`limits` with the share in place of each limit that the policy has, whatever a store says never above it."""
    requests, transferred, concurrent = parts
    if limits.concurrent is not None:  # it may be the fair share of this machine, which is not the fleet's
        concurrent = limits.concurrent if shared.concurrent is None else min(concurrent, limits.concurrent)
    return replace(
        limits,
        concurrent=None if limits.concurrent is None else concurrent,
        requests_per_minute=None if limits.requests_per_minute is None else min(requests, limits.requests_per_minute),
        bytes_per_hour=None if limits.bytes_per_hour is None else min(transferred, limits.bytes_per_hour),
    )
