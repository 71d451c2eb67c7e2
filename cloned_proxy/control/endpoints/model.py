"""The local model: whether it runs, what it says of itself, and what pipelines made with it."""

from __future__ import annotations

from typing import Final

from cloned_proxy.control.operation import Call, Operation, Strict
from cloned_proxy.runner.llm.health import Health, ask_health, model_metrics
from cloned_proxy.runner.llm.state import PORT, read_state
from cloned_proxy.runner.values.errors import SandboxInputError
from cloned_proxy.store.workspaces.kept import KeptArtifact, kept_artifacts

_SHOWN: Final = 50
_WORD: Final = 300


class ReportAnswer(Strict):
    id: str
    title: str
    pipeline: str
    created: str
    tokens: int | None
    seconds: float | None
    truncated: bool


class ModelAnswer(Strict):
    engine: str | None
    """None: `llm up` was not run in this workspace."""
    running: bool
    """The relay is there; it ends with the model's slot."""
    health: str
    """`ready`, `loading`, `no answer`, or `answers, but not as ready`."""
    said: str
    base: str
    key: bool
    metrics: dict[str, float]
    """The figures of the server's own `/metrics`, by what it counts; empty where it has none, or wants a key for it."""
    reports: list[ReportAnswer]


def _model(call: Call) -> ModelAnswer:
    workspace = call.services.workspace
    try:
        state = read_state(workspace.root)
    except SandboxInputError:
        state = None  # `llm status` says what is wrong with the file
    running = state is not None and state.relay_alive
    report = ask_health(PORT, state.health) if state is not None and running else None
    return ModelAnswer(
        engine=state.engine if state is not None else None,
        running=running,
        health=report.health.value if report is not None else Health.SILENT.value,
        said=report.said if report is not None else "",
        base=f"http://127.0.0.1:{PORT}/v1",
        key=state is not None and state.keyed,
        metrics=model_metrics(PORT) if running else {},
        reports=[_report(kept) for kept in kept_artifacts(workspace.artifacts_directory)[:_SHOWN]],
    )


def _report(kept: KeptArtifact) -> ReportAnswer:
    tokens, seconds = kept.costs.get("completion_tokens"), kept.costs.get("seconds")
    return ReportAnswer(
        id=kept.id,
        title=str(kept.manifest.get("title", ""))[:_WORD],
        pipeline=str(kept.manifest.get("pipeline", ""))[:_WORD],
        created=str(kept.manifest.get("created", ""))[:_WORD],
        tokens=tokens if type(tokens) is int else None,
        seconds=float(seconds) if isinstance(seconds, int | float) else None,
        truncated=kept.manifest.get("truncated") is True,
    )


OPERATIONS: Final = (
    Operation("GET", "/model", "The local model, and what pipelines made with it", _model, ModelAnswer),
)
