"""Decisions and the ends of flows on record: the audit log first, and the metrics once it has taken them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from cloned_proxy.policy.callers.caller import Caller, IdentityRefusal, Principal
from cloned_proxy.policy.hints.hint import MANY_DENIALS, owner_hint
from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.terms.decision import Decision, Request
from cloned_proxy.policy.terms.vocabulary import Reason, Verdict
from cloned_proxy.telemetry.events import (
    MANY,
    AuditSink,
    AuditUnavailableError,
    DecisionEvent,
    FlowEnd,
    Kind,
    new_decision_id,
)
from cloned_proxy.telemetry.metrics import Metrics

_MAX_RECORDED_HOST: Final = 255
_MAX_RECORDED_PATH: Final = 1024
_ANYTHING: Final = Request(MANY, 0)
_VERDICTS: Final = {verdict: verdict.name.lower() for verdict in Verdict}


class Recorder:
    """What the enforcer tells about what it did. `clock` gives Unix seconds."""

    __slots__ = ("_audit", "_clock", "_metrics")

    def __init__(self, audit: AuditSink, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._audit = audit
        self._metrics = metrics
        self._clock = clock

    def decided(
        self,
        caller: Caller,
        decision: Decision,
        kind: Kind,
        policy: Policy | None,
        started: float,
        *,
        amends: str = "",
    ) -> str:
        """Records a decision, and returns the id under which it is. Raises AuditUnavailableError.

        `started` is on `time.perf_counter`; `amends` is the id of the decision that it replaces.
        """
        event = self.event_of(caller, decision, kind, policy, amends=amends)
        self._record(event, time.perf_counter() - started, owner_of(caller))
        return event.id

    def refused(self, caller: Caller, decision: Decision, kind: Kind, policy: Policy | None, started: float) -> str:
        """Records a denial as `decided`; equal ones in a row may become one entry, under whose id each is found."""
        event = self.event_of(caller, decision, kind, policy)
        recorded = self._audit.denied(event, owner=owner_of(caller))
        self._metrics.decided(event, time.perf_counter() - started, recorded)
        return recorded

    def summed_up(self, caller: Caller, decision: Decision, kind: Kind, policy: Policy | None, started: float) -> str:
        """Records a denial of a caller who is refused too often.

        The entry says how often, and not what was asked for.
        """
        summary = Decision(Verdict.DENY, Reason.LIMIT_EXCEEDED, _ANYTHING, decision.tool)
        event = replace(self.event_of(caller, summary, kind, policy), hint=MANY_DENIALS)
        recorded = self._audit.denied(event, owner=owner_of(caller), summary=True)
        self._metrics.decided(event, time.perf_counter() - started, recorded)
        return recorded

    async def committed(
        self,
        caller: Caller,
        decision: Decision,
        kind: Kind,
        policy: Policy,
        started: float,
        *,
        uses: int | None = None,
    ) -> str:
        """As `decided`, and the event is on disk at the return; with `uses` it takes one of its rule's.

        Raises LeaseUsedUpError and AuditUnavailableError.
        """
        event = self.event_of(caller, decision, kind, policy, spends_use=uses is not None)
        await self._audit.commit(event, uses=uses, owner=owner_of(caller))
        self._metrics.decided(event, time.perf_counter() - started)
        return event.id

    def finished(self, end: FlowEnd, kind: Kind) -> None:
        """Records the end of a flow that was granted. One that the log does not take is counted."""
        self._metrics.bytes_passed(end.tool, up=end.bytes_up, down=end.bytes_down)
        self._metrics.request_finished(kind, end.seconds)
        try:
            self._audit.record(end, owner=end.tool)
        except AuditUnavailableError:
            self._metrics.audit_dropped()

    def lost(self) -> str:
        """An id for what could not be recorded, which is counted."""
        self._metrics.audit_dropped()
        return new_decision_id()

    def _record(self, event: DecisionEvent, seconds: float, owner: str | None) -> None:
        self._audit.record(event, owner=owner)
        self._metrics.decided(event, seconds)

    def behind(self, caller: Caller) -> bool:
        """Whether the caller is to wait, by `caught_up`, before its next request is decided."""
        return self._audit.behind(owner_of(caller))

    async def caught_up(self) -> None:
        """Returns when all that was recorded before is on disk. Raises AuditUnavailableError."""
        await self._audit.caught_up()

    def event_of(
        self,
        caller: Caller,
        decision: Decision,
        kind: Kind,
        policy: Policy | None,
        *,
        spends_use: bool = False,
        amends: str = "",
    ) -> DecisionEvent:
        """A decision as it goes on record, which is for the caller to see to."""
        request, rule = decision.request, decision.rule
        return DecisionEvent(
            id=new_decision_id(),
            at=self._clock(),
            kind=kind,
            verdict=_VERDICTS[decision.verdict],
            reason=decision.reason,
            tool=decision.tool,
            run=None if isinstance(caller, IdentityRefusal) else caller.run,
            host=decision.host.text if decision.host is not None else request.host[:_MAX_RECORDED_HOST],
            port=request.port,
            method=request.method or ("CONNECT" if request.port else ""),
            path=request.path.partition("?")[0][:_MAX_RECORDED_PATH] if request.path else "",
            rule=rule.id if rule is not None else "",
            policy=policy.version if policy is not None else "",
            hint=owner_hint(decision),
            spends_use=spends_use,
            refused_address="" if decision.refused_address is None else str(decision.refused_address),
            amends=amends,
            source_address=caller.source_address,
        )


def owner_of(caller: Caller) -> str | None:
    """Whose share of the log a request takes. A name that is only claimed takes nothing from the tool of that name."""
    return caller.tool if isinstance(caller, Principal) else None
