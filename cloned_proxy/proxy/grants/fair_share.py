"""How much of what all share one party may have: four fifths, so that a fifth is always left to others.

Of `max_connections` no tool may hold more as open flows (429), and while more than one listener is open, no party may
hold more as connections (`connection_cap`).
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Final

from cloned_proxy.policy.model.model import NO_LIMITS, Limits

_SHARE_FIFTHS: Final = 4


def fair_share(places: int) -> int:
    """The most that one of several parties may hold of so many places."""
    return max(1, -(-places * _SHARE_FIFTHS // 5))


def fair_limits(limits: Limits, share: int | None) -> Limits:
    """A tool's limits with its fair share as the most that it may have open; None is no share."""
    if share is None or (limits.concurrent is not None and limits.concurrent <= share):
        return limits
    return _only_share(share) if limits is NO_LIMITS else replace(limits, concurrent=share)


@lru_cache(maxsize=1)
def _only_share(share: int) -> Limits:
    """The limits of tools that have none of their own, which are most of them: made once."""
    return Limits(concurrent=share)
