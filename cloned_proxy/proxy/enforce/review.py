"""What the policy in force says now about a flow that is open."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import structlog

from cloned_proxy.policy.deciding.decide import decide, decide_limits
from cloned_proxy.policy.terms.decision import Decision
from cloned_proxy.policy.terms.registry import decide_in_the_clear
from cloned_proxy.policy.terms.vocabulary import Reason
from cloned_proxy.proxy.enforce.question import PolicySource
from cloned_proxy.proxy.grants.budget import Budgets, LeaseCounts
from cloned_proxy.proxy.grants.grant import Grant
from cloned_proxy.proxy.upstream.places import Places
from cloned_proxy.telemetry.events import Kind

_log = structlog.get_logger(__name__)


class Reviewer:
    """One for each enforcer, by whose policy, places, leases and budgets it judges."""

    def __init__(
        self,
        policies: PolicySource,
        places: Places,
        leases: LeaseCounts,
        budgets: Budgets,
        clock: Callable[[], float],
    ) -> None:
        self._policies: Final = policies
        self._places: Final = places
        self._leases: Final = leases
        self._budgets: Final = budgets
        self._clock: Final = clock

    def review(self, grant: Grant) -> Decision:
        """The decision of today; the caller cuts the flow when it no longer passes.

        Never raises: a flow that nobody can vouch for goes, and does not keep the others from being looked at.
        """
        try:
            return self._review(grant)
        except Exception:  # noqa: BLE001  logged; a fault refuses
            _log.exception("an open flow could not be reviewed and is cut")
            return grant.decision.denied(Reason.INTERNAL_ERROR)

    def _review(self, grant: Grant) -> Decision:
        rule = grant.decision.rule
        # The flow holds the use it took: it is not cut because it was the last one.
        spent = [used for used in self._leases.spent if rule is None or used != rule.id]
        policy = self._policies.current
        decision = decide(policy, grant.caller, grant.decision.request, self._clock(), spent, ended=self._leases.ended)
        decision = decide_in_the_clear(decision) if grant.kind is Kind.HTTP else decision
        decision = self._places.judged(decision, grant.addresses)
        shares, tool = self._budgets.shares, grant.caller.tool
        if decision.passes and shares.has_lost(tool):
            return decision.denied(Reason.LIMIT_EXCEEDED)
        if policy is not None and decision.passes:
            # An open flow already counts as a request and as concurrent; only its bytes go on.
            bytes_only = replace(policy.scope_of(tool).limits, concurrent=None, requests_per_minute=None)
            usage, share = self._budgets.usage(tool, bytes_only), shares.limits_of(tool, bytes_only)
            # A share that may grow is asked for beside traffic, within the second of the next look.
            decision = decide_limits(decision, bytes_only if shares.may_grow(tool) else share, usage)
        return decision
