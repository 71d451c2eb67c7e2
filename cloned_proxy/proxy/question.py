"""A request between its decision and its end: what the enforcer passes from step to step."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from cloned_proxy.policy.caller import Principal
from cloned_proxy.policy.decision import Decision
from cloned_proxy.policy.model import Policy
from cloned_proxy.policy.rule import Host
from cloned_proxy.telemetry.events import Kind


class PolicySource(Protocol):
    """The live policy: one immutable value behind one reference; None before the first valid one."""

    @property
    def current(self) -> Policy | None: ...


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
