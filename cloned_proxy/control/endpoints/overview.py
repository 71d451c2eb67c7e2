"""Everything that a person wants to see first, in one answer."""

from __future__ import annotations

from typing import Any, Final

from cloned_proxy.control.endpoints.runs import Probe, newest_probe
from cloned_proxy.control.operation import Call, Operation, Strict
from cloned_proxy.local.control_client import ask_all
from cloned_proxy.store.approvals.approvals import ApprovalService


class PolicyState(Strict):
    version: str
    """In force; "" while nothing serves."""
    mode: str
    source: str
    loaded_at: float | None
    error: str | None
    """Why the file as it is now is not in force."""
    rules: int


class ServingState(Strict):
    workers: int
    ready: bool
    problems: list[str]
    """Each once, whatever the number of workers; what is wrong with the policy is in its own `error`."""


class OverviewAnswer(Strict):
    policy: PolicyState
    serving: ServingState
    probe: Probe | None
    pending: int
    """Requests that wait for a person."""
    allowed_last_hour: int
    denied_last_hour: int
    denied_by_hour: list[int]
    """Denials of the last day, by hours that end now; the last one is `denied_last_hour`."""
    open_tunnels: int
    proxy: str
    """`host:port` that clients use."""


def _overview(call: Call) -> OverviewAnswer:
    services = call.services
    answers = ask_all(services.workspace.root, {"op": "status"})
    day = services.record.by_hour(services.clock())
    service = ApprovalService(services.workspace, services.policy_file, clock=services.clock)
    policy = _policy(answers)
    problems = list(dict.fromkeys(text for answer in answers for text in answer["problems"]))
    told = (policy.error or "").splitlines()
    return OverviewAnswer(
        policy=policy,
        serving=ServingState(
            workers=len(answers),
            ready=bool(answers) and not problems,
            problems=[text for text in problems if text not in told],
        ),
        probe=newest_probe(call),
        pending=len(service.list("pending")),
        allowed_last_hour=day[-1].allowed,
        denied_last_hour=day[-1].denied,
        denied_by_hour=[counts.denied for counts in day],
        open_tunnels=sum(answer["tunnels"] for answer in answers),
        proxy=services.proxy,
    )


def _policy(answers: list[dict[str, Any]]) -> PolicyState:
    """That of the first worker; the others follow the same file."""
    if not answers:
        return PolicyState(version="", mode="", source="", loaded_at=None, error="nothing serves", rules=0)
    return PolicyState(**{name: answers[0][name] for name in PolicyState.model_fields})


OPERATIONS: Final = (Operation("GET", "/overview", "What a person wants to see first", _overview, OverviewAnswer),)
