"""Sandbox runs and the isolation probe, as they are on record."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import Field

from cloned_proxy.control.endpoints.decisions import Seq
from cloned_proxy.control.operation import Call, Operation, Query, Strict


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


class ProbeAnswer(Strict):
    probe: Probe | None
    """None: none was made yet. `sandbox: {probe_interval: …}` in config.yaml makes `serve` do it."""


def _runs(call: Call) -> RunsAnswer:
    found = call.parts.record.events("run", before=call.query.before, limit=call.query.limit)
    return RunsAnswer(
        items=[RunAnswer(seq=seq, **_fields(RunAnswer, body)) for seq, body in found.entries], next=found.next
    )


def _probe(call: Call) -> ProbeAnswer:
    return ProbeAnswer(probe=newest_probe(call))


def newest_probe(call: Call) -> Probe | None:
    """The last one on record."""
    body = call.parts.record.newest("probe")
    return Probe.model_validate(_fields(Probe, body)) if body is not None else None


def _fields(model: type[Strict], body: dict[str, Any]) -> dict[str, Any]:
    return {name: body[name] for name in model.model_fields if name in body}


OPERATIONS: Final = (
    Operation("GET", "/runs", "Runs of sandboxed tools, the newest first", _runs, RunsAnswer, query=RunsQuery),
    Operation("GET", "/probe", "The last isolation probe", _probe, ProbeAnswer),
)
