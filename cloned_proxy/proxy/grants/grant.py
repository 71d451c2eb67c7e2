"""What comes of asking the enforcer: the permission to dial, or a refusal."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cloned_proxy.policy.callers.caller import Principal
from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.terms.decision import Decision
from cloned_proxy.policy.terms.rule import Address
from cloned_proxy.proxy.grants.budget import Charge
from cloned_proxy.telemetry.events import Kind


@dataclass(frozen=True, slots=True)
class Grant:
    """Permission to dial, for one request. Goes back through `Enforcer.finish` when its flow ends."""

    id: str
    kind: Kind
    decision: Decision
    caller: Principal
    addresses: tuple[Address, ...]
    """All checked; the port is the request's. None at all for a name that only the proxy in front looks up."""
    policy: Policy
    charge: Charge
    since: float
    """Monotonic seconds."""

    def for_request(self, method: str, path: str) -> Grant:
        """The same for another request to its host and port, where the policy did not look at what is asked for there.

        One of later may, so that a review needs the request that is under way.
        """
        request = replace(self.decision.request, method=method, path=path)
        return replace(self, decision=replace(self.decision, request=request))


@dataclass(frozen=True, slots=True)
class Refusal:
    """No. `phase` is `resolve` when the policy allowed a name that did not resolve (502, or 504 if `timed_out`)."""

    id: str
    decision: Decision
    phase: str = ""
    timed_out: bool = False
    retry_after: int | None = None
    """Seconds, with `limit_exceeded`."""
    approval: str = ""
    """Id of the request that a person may approve."""
    inside: bool = False
    """The caller is a tool in a sandbox, where nobody can run `cloned-proxy`."""
    unlisted: bool = False
    """Over the caller's budget of refusals: on record as a number, and told to the caller when it is its turn."""
