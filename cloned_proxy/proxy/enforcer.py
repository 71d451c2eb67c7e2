"""Between the decision and the dial: what every enforcement point does, in one place.

The gate and the inspection addon both call `Enforcer.authorise` for each request. It decides, resolves only what was
allowed, checks every address, takes the tool's budget, puts the outcome on record and only then hands out a `Grant`,
without which nothing is dialled.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Protocol

from cloned_proxy.policy.decide import decide, decide_addresses, decide_limits
from cloned_proxy.policy.hint import hint
from cloned_proxy.policy.model import Address, Caller, Decision, Policy, Principal, Reason, Request, Verdict
from cloned_proxy.proxy.budget import Budgets, Charge
from cloned_proxy.proxy.resolver import ResolveError, Resolver
from cloned_proxy.telemetry.events import AuditSink, AuditUnavailableError, DecisionEvent, Kind, new_decision_id
from cloned_proxy.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Grant:
    """Permission to dial, for one request. `close` must be called exactly when the flow ends."""

    id: str
    decision: Decision
    caller: Principal
    addresses: tuple[Address, ...]
    """All checked; the port is the request's."""
    policy: Policy
    charge: Charge


@dataclass(frozen=True, slots=True)
class Refusal:
    """No. `phase` is set when the policy allowed but the name did not resolve (502/504), else ""."""

    id: str
    decision: Decision
    phase: str = ""
    timed_out: bool = False
    retry_after: int | None = None


class PolicySource(Protocol):
    """The live policy: one immutable value behind one reference."""

    @property
    def current(self) -> Policy | None: ...


class Enforcer:
    """One for each process. All methods run on the event loop."""

    def __init__(
        self,
        *,
        policies: PolicySource,
        resolver: Resolver,
        budgets: Budgets,
        audit: AuditSink,
        metrics: Metrics,
        own_listeners: Callable[[], Collection[tuple[Address, int]]],
        clock: Callable[[], float],
        strict_durability: bool = False,
    ) -> None:
        self._policies = policies
        self._resolver = resolver
        self._budgets = budgets
        self._audit = audit
        self._metrics = metrics
        self._own_listeners = own_listeners
        self._clock = clock
        self._strict = strict_durability

    async def authorise(
        self,
        caller: Caller,
        request: Request,
        kind: Kind,
        *,
        pinned: tuple[Address, ...] | None = None,
    ) -> Grant | Refusal:
        """Decides one request and, if it passes, returns the only thing that permits a dial.

        `pinned` are the addresses of the CONNECT grant that an inspected request belongs to: they are checked again,
        not resolved again. Never raises except for cancellation; a fault is a refusal with `internal_error`.
        """
        raise NotImplementedError

    def refuse(self, caller: Caller, request: Request, kind: Kind, reason: Reason) -> Refusal:
        """Puts on record a refusal that a head's form alone decides (`malformed_request`, `host_header_mismatch`)."""
        raise NotImplementedError

    def finish(self, grant: Grant, *, bytes_up: int, bytes_down: int, cause: str) -> None:
        """Returns the grant's budget and puts the end of the flow on record. Idempotent."""
        raise NotImplementedError
