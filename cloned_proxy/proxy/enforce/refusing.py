"""Refusals: on record before anybody is told, each with its id, and within what a caller may have recorded of them."""

from __future__ import annotations

import contextlib
import time
from typing import Final

from cloned_proxy.policy.callers.caller import Caller, IdentityRefusal
from cloned_proxy.policy.callers.challenge import challenged
from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.terms.decision import Decision, Request
from cloned_proxy.policy.terms.vocabulary import Reason, Verdict
from cloned_proxy.proxy.enforce.question import PolicySource
from cloned_proxy.proxy.enforce.record import Recorder, owner_of
from cloned_proxy.proxy.grants.denial_budget import DenialBudget
from cloned_proxy.proxy.grants.grant import Refusal
from cloned_proxy.telemetry.events import AuditUnavailableError, DecisionEvent, Kind
from cloned_proxy.telemetry.wait_metrics import WaitMetrics, WaitReason

_ALWAYS_RECORDED: Final = frozenset({Reason.SECRET_LEAK, Reason.SECRET_ECHOED})
"""Alarms: no flood of other refusals hides one."""


class Refusing:
    """One for each enforcer."""

    def __init__(self, records: Recorder, budget: DenialBudget, policies: PolicySource, waits: WaitMetrics) -> None:
        self._records: Final = records
        self._budget: Final = budget
        self._policies: Final = policies
        self._waits: Final = waits

    def over(self, caller: Caller) -> bool:
        """Whether this caller's next refusal probably has to wait for its `turn`."""
        return self._budget.over(owner_of(caller))

    async def turn(self, caller: Caller) -> None:
        """Waits for the turn of a refusal of a caller who is over its budget."""
        with self._waits.waiting(WaitReason.DENIALS_PER_MINUTE):
            await self._budget.turn(owner_of(caller))

    def behind(self, caller: Caller) -> bool:
        """Whether `breath` waits: the caller has had its share of a slow log, or more refusals than are its due."""
        return self._records.behind(caller) or self.over(caller)

    async def breath(self, caller: Caller) -> None:
        """What a caller who is behind waits for before it is refused. Overload refuses nobody."""
        await self.log_caught_up(caller)
        if self.over(caller):
            await self.turn(caller)

    async def log_caught_up(self, caller: Caller) -> None:
        """Returns at once when the log fails: what follows cannot be recorded then, and is refused for that."""
        if not self._records.behind(caller):
            return
        with contextlib.suppress(AuditUnavailableError), self._waits.waiting(WaitReason.AUDIT_QUEUE):
            while self._records.behind(caller):
                await self._records.caught_up()

    def refused(
        self,
        caller: Caller,
        decision: Decision,
        kind: Kind,
        policy: Policy | None,
        started: float,
        *,
        amends: str = "",
    ) -> Refusal:
        """Puts a refusal on record. Raises AuditUnavailableError.

        What replaces the record of a grant (`amends`) stands there whatever the caller's budget says.
        """
        if kind is not Kind.INSPECTED_REQUEST:  # in opened TLS no client knows a proxy to answer to
            decision = challenged(policy, caller, decision)
        if amends or decision.reason in _ALWAYS_RECORDED:
            recorded = self._records.decided(caller, decision, kind, policy, started, amends=amends)
            return Refusal(recorded, decision, inside=caller.inside)
        tool = owner_of(caller)
        wait = self._budget.spend(tool, _limit(policy, tool))
        if wait is None:
            recorded = self._records.refused(caller, decision, kind, policy, started)
            return Refusal(recorded, decision, inside=caller.inside)
        recorded = self._records.summed_up(caller, decision, kind, policy, started)
        # A question for a credential stays one: whoever answers it may be another caller, and allowed.
        if decision.reason is not Reason.IDENTITY_MISSING:
            decision = decision.denied(Reason.LIMIT_EXCEEDED)
        return Refusal(recorded, decision, inside=caller.inside, retry_after=wait, unlisted=True)

    def refuse(self, caller: Caller, request: Request, kind: Kind, reason: Reason, *, secret: str = "") -> Refusal:
        """Puts on record a refusal that the head alone decides, such as `malformed_request` or `secret_leak`."""
        tool = caller.claimed if isinstance(caller, IdentityRefusal) else caller.tool
        decision = Decision(Verdict.DENY, reason, request, tool, secret=secret)
        try:
            return self.refused(caller, decision, kind, self._policies.current, time.perf_counter())
        except AuditUnavailableError:
            return self.unrecorded(caller, request)

    def refuse_again(self, caller: Caller, refusal: Refusal, kind: Kind) -> str | None:
        """Puts on record that a request was refused like an earlier one; returns its id.

        None, with nothing on record, where that is not all: the caller has to wait, or the log fails.
        """
        if self.behind(caller):
            return None
        started, tool, policy = time.perf_counter(), owner_of(caller), self._policies.current
        try:
            if self._budget.spend(tool, _limit(policy, tool)) is not None:
                return None
            return self._records.refused(caller, refusal.decision, kind, policy, started)
        except AuditUnavailableError:
            return None

    def of_its_kind(self, caller: Caller, refusal: Refusal, kind: Kind) -> tuple[DecisionEvent, int]:
        """What `refuse_again` would put on record, and of how many in a minute, for who counts them elsewhere."""
        policy, tool = self._policies.current, owner_of(caller)
        return self._records.event_of(caller, refusal.decision, kind, policy), self._budget.most(_limit(policy, tool))

    def unrecorded(self, caller: Caller, request: Request) -> Refusal:
        """The refusal of what cannot be put on record, which is counted."""
        tool = caller.claimed if isinstance(caller, IdentityRefusal) else caller.tool
        decision = Decision(Verdict.DENY, Reason.INTERNAL_ERROR, request, tool)
        return Refusal(self._records.lost(), decision, inside=caller.inside)


def _limit(policy: Policy | None, tool: str | None) -> int | None:
    return policy.scope_of(tool).limits.denials_per_minute if policy is not None and tool is not None else None
