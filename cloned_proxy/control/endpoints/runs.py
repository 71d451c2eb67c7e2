"""Sandbox runs and escape probes as they are on record, and the button that makes one.

The control process starts no container: it asks the serving process, which owns the sandboxes, and says who asked.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import Field

from cloned_proxy.control.endpoints.decisions import Seq
from cloned_proxy.control.errors import ApiError
from cloned_proxy.control.operation import Call, Nothing, Operation, Query, Strict
from cloned_proxy.local.control_client import MAX_ACTOR, ask_all


class RunsQuery(Query):
    before: Seq | None = None
    limit: Annotated[int, Field(ge=1, le=500)] = 100


class RunAnswer(Strict):
    seq: int
    at: float
    tool: str
    run: str
    result: str
    seconds: float
    start_seconds: float | None
    dry_run: bool
    reason: str
    command: str = ""
    """Bounded, with what looks like a secret taken out; "" where nobody said."""


class RunsAnswer(Strict):
    items: list[RunAnswer]
    next: int | None


class Probe(Strict):
    at: float
    sealed: bool
    attempts: int
    controls: int
    seconds: float
    failures: list[str]
    actor: str = "canary"
    """`canary` of `serve`, `cli:<user>` for `verify` in a terminal, `device:<name>`."""


class ProbeAnswer(Strict):
    probe: Probe | None
    """The newest of all, whoever made it; None: none was made yet."""
    possible: bool
    """Whether one can be made now: something serves, and an engine answers."""
    running: bool
    stage: str
    """What the one that is under way does; "" while there is none."""


class BegunAnswer(Strict):
    begun: bool


def _runs(call: Call) -> RunsAnswer:
    found = call.services.record.events("run", before=call.query.before, limit=call.query.limit)
    return RunsAnswer(
        items=[RunAnswer(seq=seq, **_fields(RunAnswer, body)) for seq, body in found.entries], next=found.next
    )


def _probe(call: Call) -> ProbeAnswer:
    answers = ask_all(call.services.workspace.root, {"op": "probing"})
    told = next((answer["probing"] for answer in answers if answer.get("probing")), None)
    state = told or {"possible": False, "running": False, "stage": ""}
    return ProbeAnswer(probe=newest_probe(call), **state)


def _probe_now(call: Call) -> BegunAnswer:
    answers = ask_all(call.services.workspace.root, {"op": "probe", "actor": call.actor[:MAX_ACTOR]})
    refused = next((answer["refused"] for answer in answers if answer.get("refused") is not None), None)
    if refused is None:
        raise ApiError(503, "no serving process takes sandboxes now", headers={"retry-after": "1"})
    if refused:
        raise ApiError(409, refused)
    return BegunAnswer(begun=True)


def newest_probe(call: Call) -> Probe | None:
    """The last one on record."""
    body = call.services.record.newest("probe")
    return Probe.model_validate(_fields(Probe, body)) if body is not None else None


def _fields(model: type[Strict], body: dict[str, Any]) -> dict[str, Any]:
    return {name: body[name] for name in model.model_fields if name in body}


OPERATIONS: Final = (
    Operation("GET", "/runs", "Runs of sandboxed tools, the newest first", _runs, RunsAnswer, query=RunsQuery),
    Operation("GET", "/probe", "The newest escape probe, and one that is under way", _probe, ProbeAnswer),
    Operation("POST", "/probe", "Make one now", _probe_now, BegunAnswer, body=Nothing, refusals=(409,)),
)
