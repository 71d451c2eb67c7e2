"""Between the decision and the dial: what every enforcement point does, in one place.

The gate and the inspection addon both call `Enforcer.authorise` for each request. It decides, resolves only what was
allowed, checks every address, takes the tool's budget, puts the outcome on record and only then hands out a `Grant`,
without which nothing is dialled.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import structlog

from cloned_proxy.policy.callers.caller import Caller, IdentityRefusal, Principal
from cloned_proxy.policy.deciding.decide import decide
from cloned_proxy.policy.terms.decision import Decision, Request
from cloned_proxy.policy.terms.registry import decide_in_the_clear
from cloned_proxy.policy.terms.rule import Address
from cloned_proxy.policy.terms.vocabulary import Reason
from cloned_proxy.proxy.enforce.asking import Asking, WaitingClient
from cloned_proxy.proxy.enforce.foresight import Foresight
from cloned_proxy.proxy.enforce.question import Allowed, Basis, Denied, OwnPlaces, PolicySource
from cloned_proxy.proxy.enforce.record import Recorder
from cloned_proxy.proxy.enforce.refusing import Refusing
from cloned_proxy.proxy.enforce.review import Reviewer
from cloned_proxy.proxy.grants.budget import Budgets, Charge, LeaseCounts
from cloned_proxy.proxy.grants.denial_budget import DenialBudget
from cloned_proxy.proxy.grants.fair_share import fair_limits
from cloned_proxy.proxy.grants.grant import Grant, Refusal
from cloned_proxy.proxy.upstream.places import FrontNames, Places
from cloned_proxy.proxy.upstream.resolver import ResolveError, Resolver
from cloned_proxy.telemetry.events import (
    AuditSink,
    AuditUnavailableError,
    FlowEnd,
    Kind,
    LeaseUsedUpError,
    UseNotCountedError,
)
from cloned_proxy.telemetry.metrics import Metrics

_log = structlog.get_logger(__name__)

_MOST_QUESTIONS: Final = 8
"""For one request. Each time a share may double, and a store that lies may let it grow for ever."""


class Enforcer:
    """One for each process. All methods run on its event loop."""

    def __init__(
        self,
        *,
        policies: PolicySource,
        resolver: Resolver,
        budgets: Budgets,
        leases: LeaseCounts,
        audit: AuditSink,
        metrics: Metrics,
        own_listeners: OwnPlaces,
        clock: Callable[[], float] = time.time,
        strict_durability: bool = False,
        flows_per_tool: int | None = None,
        asking: Asking | None = None,
        names: FrontNames | None = None,
        denials: DenialBudget | None = None,
    ) -> None:
        """`flows_per_tool` bounds what any one tool may have open, whatever the policy allows it (`fair_share`).

        `denials` is what each caller may have of recorded refusals.
        Without `asking`, `on_deny: ask` refuses. `names` is what the proxy in front has to say about them.
        """
        self._policies = policies
        self._places = Places(resolver, own_listeners, names)
        self.basis = Basis(policies, resolver, budgets, leases, own_listeners, strict_durability, flows_per_tool)
        self._budgets = budgets
        self._leases = leases
        self._records = Recorder(audit, metrics, clock)
        self._refusing: Final = Refusing(
            self._records, denials or DenialBudget(time.monotonic), policies, metrics.waits
        )
        self._clock = clock
        self._strict_durability = strict_durability
        self._flows_per_tool = flows_per_tool
        self._asking = asking
        self.review: Final = Reviewer(policies, self._places, leases, budgets, clock).review
        """`Reviewer.review`: what of an open flow the policy in force says now."""
        self.prospect: Final = Foresight(self.outlook, policies, self._places, budgets).prospect
        """`Foresight.prospect`: what would be granted to a request that is granted elsewhere."""
        self.refuse: Final = self._refusing.refuse
        """`Refusing.refuse`: for what a head alone decides; let its caller have `breath` first."""
        self.refuse_again: Final = self._refusing.refuse_again
        self.refused_alike: Final = self._refusing.of_its_kind
        self.behind: Final = self._refusing.behind
        """`Refusing.behind`: whether `breath` waits."""
        self.breath: Final = self._refusing.breath

    async def authorise(
        self,
        caller: Caller,
        request: Request,
        kind: Kind,
        *,
        pinned: tuple[Address, ...] | None = None,
        client: WaitingClient | None = None,
    ) -> Grant | Refusal:
        """Decides one request and, if it passes, returns the only thing that permits a dial.

        `pinned` are the addresses of the CONNECT grant that an inspected request belongs to: they are checked again,
        not resolved again. `client` tells whether anybody still waits for an answer that the policy may have held
        (`hold`). Raises nothing but cancellation; a fault is a refusal with `internal_error`.
        """
        try:
            await self._refusing.log_caught_up(caller)
            outcome = await self._authorise(caller, request, kind, pinned, client)
        except AuditUnavailableError:
            return self._refusing.unrecorded(caller, request)
        except Exception:  # noqa: BLE001  fail closed: whatever went wrong, no grant leaves here
            _log.exception("authorise failed; the request is refused")
            return self._refusing.unrecorded(caller, request)
        if isinstance(outcome, Refusal) and outcome.unlisted:
            await self._refusing.turn(caller)
        return outcome

    def authorise_now(self, caller: Caller, request: Request, kind: Kind) -> Grant | Refusal | None:
        """`authorise` without a task, for a request that nothing has to be waited for.

        None, with nothing taken and nothing on record, when a name has to be looked up, a commit awaited, a person
        asked, or the caller is `behind`.
        """
        try:
            return None if self.behind(caller) else self._authorise_now(caller, request, kind)
        except AuditUnavailableError:
            return self._refusing.unrecorded(caller, request)
        except Exception:  # noqa: BLE001  logged; a fault refuses
            _log.exception("authorise failed; the request is refused")
            return self._refusing.unrecorded(caller, request)

    def outlook(self, caller: Caller, request: Request) -> Decision:
        """What the rules say of a request that nobody has made yet. Permits nothing, and nothing of it is on record."""
        return decide(
            self._policies.current, caller, request, self._clock(), self._leases.spent, ended=self._leases.ended
        )

    def _authorise_now(self, caller: Caller, request: Request, kind: Kind) -> Grant | Refusal | None:
        question = self._decide(caller, request, kind)
        if isinstance(question, Refusal):
            return question
        if isinstance(question, Denied):
            return None
        if self._strict_durability or question.spends_use:
            return None
        addresses = self._places.known(question.host)
        if addresses is None:
            return None
        outcome = self._check_addresses_and_limits(question, addresses)
        if outcome is None or isinstance(outcome, Refusal):
            return outcome
        question, charge = outcome
        try:
            recorded = self._records.decided(
                caller, question.decision, question.kind, question.policy, question.started
            )
        except BaseException:
            charge.close()
            raise
        return _grant(question, recorded, addresses, charge)

    async def _authorise(
        self,
        caller: Caller,
        request: Request,
        kind: Kind,
        pinned: tuple[Address, ...] | None,
        client: WaitingClient | None,
        *,
        questions: int = 0,
    ) -> Grant | Refusal:
        """`questions`: how often more of a share was asked for."""
        question = self._decide(caller, request, kind)
        if isinstance(question, Denied):
            question = await self._ask_person(question, client)
        if isinstance(question, Refusal):
            return question
        if pinned is None:
            asked = time.perf_counter()
            try:
                pinned = await self._places.resolve(question.host, question.caller.tool)
            except ResolveError as error:
                # Nothing was dialled, so nothing is spent: a lease outlives a name server that does not answer.
                decided_at = question.started + time.perf_counter() - asked
                recorded = self._records.decided(caller, question.decision, question.kind, question.policy, decided_at)
                return Refusal(recorded, question.decision, phase="resolve", timed_out=error.timed_out)
            # Waiting for the name is no part of deciding.
            question = question._replace(started=question.started + time.perf_counter() - asked)
        # The name may have taken seconds to resolve; the policy that decides is the one in force at the dial.
        if self._policies.current is not question.policy:
            return await self._authorise(caller, request, kind, None, client, questions=questions)
        outcome = self._check_addresses_and_limits(question, pinned, asks=questions < _MOST_QUESTIONS)
        if outcome is None:
            await self._budgets.shares.more(question.caller.tool)
            return await self._authorise(caller, request, kind, pinned, client, questions=questions + 1)
        if isinstance(outcome, Refusal):
            return outcome
        return await self._granted(*outcome, pinned)

    async def _granted(self, question: Allowed, charge: Charge, addresses: tuple[Address, ...]) -> Grant | Refusal:
        try:
            recorded = await self._put_on_record(question)
        except LeaseUsedUpError as error:
            charge.close()
            refused = question.decision.denied(error.reason)
            return self._refusing.refused(question.caller, refused, question.kind, question.policy, question.started)
        except BaseException:
            charge.close()
            raise
        grant = _grant(question, recorded, addresses, charge)
        # The disk may have been slow, and what was revoked meanwhile is not dialled.
        if self._policies.current is not question.policy and not (now := self.review(grant)).passes:
            refusal = self.amend(grant, now)
            self.finish(grant, f"revoked:{now.reason.value}")
            return refusal or self._refusing.unrecorded(question.caller, now.request)
        return grant

    async def _ask_person(self, denial: Denied, client: WaitingClient | None) -> Allowed | Refusal:
        """Has a person asked, and waits for the answer if the policy says so."""
        caller, decision, kind, policy, started = denial
        refusal = self._refusing.refused(caller, decision, kind, policy, started)
        if self._asking is None or refusal.unlisted:
            return refusal
        answer = await self._asking.answer(denial, client)
        if answer.passes and isinstance(again := self._decide(caller, decision.request, kind), Allowed):
            return again
        return replace(refusal, approval=answer.pending)

    def _decide(self, caller: Caller, request: Request, kind: Kind) -> Allowed | Denied | Refusal:
        """The decision before the name is resolved, and what the rest of the way needs to know."""
        started = time.perf_counter()
        policy = self._policies.current
        decision = decide(policy, caller, request, self._clock(), self._leases.spent, ended=self._leases.ended)
        decision = decide_in_the_clear(decision) if kind is Kind.HTTP else decision
        if not decision.passes or policy is None or decision.host is None or isinstance(caller, IdentityRefusal):
            asking = self._asking
            if (
                policy is not None
                and isinstance(caller, Principal)
                and asking is not None
                and asking.concerns(policy, decision)
            ):
                return Denied(caller, decision, kind, policy, started)
            return self._refusing.refused(caller, decision, kind, policy, started)
        if decision.inspect and kind is Kind.TUNNEL:
            kind = Kind.INSPECTED_TUNNEL
        return Allowed(caller, decision, decision.host, kind, policy, started)

    def _check_addresses_and_limits(
        self, question: Allowed, addresses: tuple[Address, ...], *, asks: bool = True
    ) -> tuple[Allowed, Charge] | Refusal | None:
        """The decision on addresses and limits. What passes holds its place from here on, and is not on record yet.

        None, where that `asks`: this replica's share of a limit is used up, and the fleet may have more of it.
        """
        caller, decision, _, kind, policy, started = question
        decision = self._places.judged(decision, addresses)
        limits = fair_limits(policy.scope_of(caller.tool).limits, self._flows_per_tool)
        decision, charge = self._budgets.open(decision, caller.tool, limits)
        if charge is None:
            may_grow = asks and self._budgets.shares.may_grow(caller.tool)
            if decision.reason is Reason.LIMIT_EXCEEDED and may_grow:
                return None
            retry = self._budgets.retry_after(caller.tool, limits) if decision.reason is Reason.LIMIT_EXCEEDED else None
            refusal = self._refusing.refused(caller, decision, kind, policy, started)
            return refusal if refusal.unlisted else replace(refusal, retry_after=retry)
        return question if decision is question.decision else question._replace(decision=decision), charge

    def amend(self, grant: Grant, decision: Decision) -> Refusal | None:
        """Puts on record what a later stage made of a grant (`decide_tunnel`); None when it still stands unchanged."""
        if decision is grant.decision:
            return None
        try:
            refusal = self._refusing.refused(
                grant.caller, decision, grant.kind, grant.policy, time.perf_counter(), amends=grant.id
            )
        except AuditUnavailableError:
            return self._refusing.unrecorded(grant.caller, decision.request)
        return None if decision.passes else refusal

    def finish(self, grant: Grant, cause: str) -> None:
        """Returns the grant's budget and puts the end of its flow on record. Only the first call counts."""
        charge = grant.charge
        if not charge.close():
            return
        seconds = time.monotonic() - grant.since
        end = FlowEnd(grant.id, self._clock(), grant.caller.tool, charge.bytes_up, charge.bytes_down, seconds, cause)
        self._records.finished(end, grant.kind)

    async def _put_on_record(self, question: Allowed) -> str:
        """Records what passes, durably where it must be. Raises LeaseUsedUpError and AuditUnavailableError."""
        caller, decision, _, kind, policy, started = question
        rule = decision.rule
        if question.spends_use and rule is not None:
            if not self._leases.take(rule):
                raise LeaseUsedUpError(rule.id)
            try:
                return await self._records.committed(caller, decision, kind, policy, started, uses=rule.max_uses)
            except UseNotCountedError:
                self._leases.give_back(rule)
                raise
            except LeaseUsedUpError:
                self._leases.exhaust(rule)
                raise
        if self._strict_durability:
            return await self._records.committed(caller, decision, kind, policy, started)
        return self._records.decided(caller, decision, kind, policy, started)


def _grant(question: Allowed, recorded: str, addresses: tuple[Address, ...], charge: Charge) -> Grant:
    caller, decision, _, kind, policy, _ = question
    return Grant(recorded, kind, decision, caller, addresses, policy, charge, time.monotonic())
