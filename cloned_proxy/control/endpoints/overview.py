"""Everything that a person wants to see first, in one answer."""

from __future__ import annotations

from typing import Any, Final

from cloned_proxy.control.endpoints.runs import Probe, newest_probe
from cloned_proxy.control.operation import Call, Operation, Strict
from cloned_proxy.proxy.control_channel import ask_all
from cloned_proxy.store.approvals import ApprovalService

HOUR: Final = 3600.0


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


class OverviewAnswer(Strict):
    policy: PolicyState
    serving: ServingState
    probe: Probe | None
    pending: int
    """Requests that wait for a person."""
    allowed_last_hour: int
    denied_last_hour: int
    open_tunnels: int
    proxy: str
    """`host:port` that clients use."""


def _overview(call: Call) -> OverviewAnswer:
    parts = call.parts
    answers = ask_all(parts.workspace.root, {"op": "status"})
    counts = parts.record.counts(parts.clock() - HOUR)
    service = ApprovalService(parts.workspace, parts.policy_file, clock=parts.clock)
    problems = [f"worker {answer['worker']}: {text}" for answer in answers for text in answer["problems"]]
    return OverviewAnswer(
        policy=_policy(answers),
        serving=ServingState(
            workers=len(answers),
            ready=bool(answers) and not problems,
            problems=problems or ([] if answers else ["no serving process answers"]),
        ),
        probe=newest_probe(call),
        pending=len(service.list("pending")),
        allowed_last_hour=counts.allowed,
        denied_last_hour=counts.denied,
        open_tunnels=sum(answer["tunnels"] for answer in answers),
        proxy=parts.proxy,
    )


def _policy(answers: list[dict[str, Any]]) -> PolicyState:
    """That of the first worker; the others follow the same file."""
    if not answers:
        return PolicyState(version="", mode="", source="", loaded_at=None, error="nothing serves", rules=0)
    return PolicyState(**{name: answers[0][name] for name in PolicyState.model_fields})


OPERATIONS: Final = (Operation("GET", "/overview", "What a person wants to see first", _overview, OverviewAnswer),)
