"""The approvals of a fleet that are in force on one replica, each until its time is over.

They go on while the store is away. The time is the store's, which is counted on here by the time since boot.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog

from cloned_proxy.fleet.approvals.decision import SKEW_SECONDS, FleetDecision
from cloned_proxy.policy.terms.rule import Rule

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Approval:
    rules: tuple[Rule, ...]
    until: float
    """Uptime."""


class ApprovalsInForce:
    """The fleet's approvals that are in force in this process."""

    def __init__(
        self,
        on_change: Callable[[tuple[Rule, ...]], None],
        *,
        clock: Callable[[], float],
        uptime: Callable[[], float],
    ) -> None:
        """`on_change` is told the granted rules each time they are others."""
        self._on_change = on_change
        self._clock, self._uptime = clock, uptime
        self._all: dict[str, _Approval] = {}
        """By request."""
        self._told: tuple[Rule, ...] = ()
        """What `on_change` was told last."""

    def put(self, decision: FleetDecision, *, now: float, up: float) -> None:
        """Grants what is approved, from the next `tell` on. `now` is the store's time at the uptime `up`."""
        # The store's clock, which a store that lies can set back, and this host's, which may be wrong.
        late = decision.ends + SKEW_SECONDS - self._clock()
        left = min(decision.ends - now, decision.ends - decision.decided, late)
        if left <= 0:
            return
        # In the words of this machine's clock, which may be wrong: what is left is what counts.
        expires = self._clock() + left
        rules = tuple(replace(rule, expires=expires) for rule in decision.rules())
        self._all[decision.request] = _Approval(rules, up + left)
        _log.info("an approval of the fleet is in force", request=decision.request, by=decision.by, seconds=int(left))

    def end_what_is_over(self) -> None:
        """Takes back the approvals whose time is over, and tells."""
        up = self._uptime()
        over = [request for request, each in self._all.items() if up >= each.until]
        for request in over:
            del self._all[request]
            _log.info("an approval of the fleet has ended", request=request)
        self.tell()

    def tell(self) -> None:
        """Tells what is granted now, where that has changed."""
        rules = tuple(rule for each in self._all.values() for rule in each.rules)
        if rules != self._told:
            self._told = rules
            self._on_change(rules)
