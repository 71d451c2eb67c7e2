"""A request between its decision and its end: what the enforcer passes from step to step."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from cloned_proxy.policy.callers.caller import Principal
from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.terms.decision import Decision
from cloned_proxy.policy.terms.rule import Address, Host
from cloned_proxy.proxy.grants.budget import Budgets, LeaseCounts
from cloned_proxy.proxy.upstream.resolver import Resolver
from cloned_proxy.telemetry.events import Kind


class PolicySource(Protocol):
    """The live policy: one immutable value behind one reference; None before the first valid one."""

    @property
    def current(self) -> Policy | None: ...


class OwnPlaces(Container[tuple[Address, int]], Protocol):
    """Where the proxy itself listens."""

    def __len__(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Basis:
    """What the enforcer decides by, for who has to know when a decision would be another one."""

    policies: PolicySource
    resolver: Resolver
    budgets: Budgets
    leases: LeaseCounts
    own_listeners: OwnPlaces
    strict_durability: bool
    flows_per_tool: int | None

    def now(self) -> tuple[Policy | None, frozenset[str], frozenset[str], int]:
        """Equal to what it was before: nothing has changed but the time, the addresses of names and the budgets."""
        leases = self.leases
        return self.policies.current, frozenset(leases.spent), frozenset(leases.ended), len(self.own_listeners)


class Question(NamedTuple):
    """A request that its policy allows, before the rest is known. A tuple, because one is made for each request."""

    caller: Principal
    decision: Decision
    host: Host
    kind: Kind
    policy: Policy
    started: float
    """On `time.perf_counter`, moved on by what was waited for."""

    @property
    def spends_use(self) -> bool:
        """The requests inside an inspected tunnel spend uses, not the CONNECT that carries them."""
        rule = self.decision.rule
        return rule is not None and rule.max_uses is not None and self.kind is not Kind.INSPECTED_TUNNEL


class Denial(NamedTuple):
    """A denied request whose policy has a person asked about it; not on record yet."""

    caller: Principal
    decision: Decision
    kind: Kind
    policy: Policy
    started: float
