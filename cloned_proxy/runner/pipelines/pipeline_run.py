"""Runs a pipeline, step after step, and keeps what it made."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from cloned_proxy.runner.pipelines.artifacts import ARTIFACT, StepReport, costs_of, keep_artifact
from cloned_proxy.runner.pipelines.pipeline import Pipeline, Step, complete_inputs, resolve
from cloned_proxy.runner.runs.job import ToolResult, Watch
from cloned_proxy.runner.values.errors import SandboxError
from cloned_proxy.store.workspaces.kept import MANIFEST, PAGE

_SETTINGS: Final = {
    "cloned.mcp.web.search@v1": {"brave_api_key": "BRAVE_API_KEY", "search_api_base": "SEARCH_API_BASE"},
    "cloned.internal.synthesis@v1": {
        "llm_api_base": "LLM_API_BASE",
        "llm_model": "LLM_MODEL",
    },
}
"""Tool to setting to the variable of this process: each tool gets its own, and nothing else of the environment.

`LLM_API_KEY` is none of them: it stays with the proxy, which adds it where a rule says `inject`.
"""


class ToolRunner(Protocol):
    """A container or a process; both give a tool the same request and read the same answer."""

    def run_tool(
        self,
        tool_id: str,
        input: Any,  # noqa: A002  as in the object that the tool reads
        ctx: Any = None,
        *,
        timeout: float | None = None,
        files: tuple[str, ...] = (),
        dry_run: bool = False,
        watch: Watch | None = None,
    ) -> ToolResult: ...


@dataclass(frozen=True, slots=True)
class PipelineReport:
    pipeline: str
    steps: tuple[StepReport, ...]
    artifact: Path | None
    """None in a dry run, and for a pipeline without one."""
    output: Any
    """The output of the last step."""

    @property
    def page(self) -> Path | None:
        """The artifact for a browser."""
        return self.artifact.with_name(PAGE) if self.artifact is not None else None

    @property
    def truncated(self) -> tuple[StepReport, ...]:
        """Steps whose model did not come to an end."""
        return tuple(step for step in self.steps if step.costs is not None and step.costs.truncated)


class StepError(SandboxError):
    """A step failed; the message names step, tool, reason and hint."""

    def __init__(self, step: Step, cause: SandboxError, hint: str) -> None:
        reason = str(cause).removeprefix(f"{step.tool}: ")
        super().__init__(f"step {step.id} failed: {step.tool}: {reason}" + (f"; hint: {hint}" if hint else ""))
        self.result = cause.result


def run_pipeline(
    pipeline: Pipeline,
    given: Mapping[str, Any],
    runner: ToolRunner,
    *,
    artifacts: Path,
    environ: Mapping[str, str],
    progress: Callable[[str], None],
    hint_for: Callable[[str, float], str] = lambda _tool, _since: "",
    dry_run: bool = False,
    timeout: float | None = None,
    watch: Watch | None = None,
) -> PipelineReport:
    """Runs every step. `hint_for` looks up what the proxy said to a tool since a time (Unix seconds).

    `timeout` is for each step, instead of the pipeline's own; `watch` sees the model's words as they come.

    Raises SandboxInputError for inputs that do not fit, StepError when a step fails.
    """
    inputs = complete_inputs(pipeline, given)
    outputs: dict[str, Any] = {}
    done: list[StepReport] = []
    kept: Path | None = None
    for number, step in enumerate(pipeline.steps, start=1):
        progress(f"{number}/{len(pipeline.steps)} {step.id} ({step.tool}) …")
        began = time.time()
        try:
            ctx = {
                "pipeline": pipeline.id,
                "step": step.id,
                "settings": settings_of(step.tool, environ),
                "watch": watch is not None,
            }
            files = (ARTIFACT, MANIFEST) if step.artifact else ()
            result = runner.run_tool(
                step.tool,
                resolve(step.input, inputs, outputs),
                ctx,
                timeout=timeout or step.timeout,
                files=files,
                dry_run=dry_run,
                watch=watch,
            )
            if step.artifact and not dry_run:
                kept = keep_artifact(artifacts, pipeline.id, result, done)
        except SandboxError as error:
            raise StepError(step, error, hint_for(step.tool, began)) from error
        outputs[step.id] = result.output
        done.append(StepReport(step.id, step.tool, result.run, result.seconds, costs_of(result.output)))
        progress(f"{number}/{len(pipeline.steps)} {step.id} done in {result.seconds:.2f} s{_tokens(done[-1])}")
    return PipelineReport(pipeline.id, tuple(done), kept, outputs[pipeline.steps[-1].id])


def settings_of(tool: str, environ: Mapping[str, str]) -> dict[str, str]:
    """What a built-in tool gets of this process's environment."""
    wanted = _SETTINGS.get(tool, {})
    return {setting: environ[variable] for setting, variable in wanted.items() if environ.get(variable)}


def _tokens(step: StepReport) -> str:
    costs = step.costs
    if costs is None or costs.completion_tokens is None:
        return ""
    return f", {costs.completion_tokens} tokens" + (", cut off" if costs.truncated else "")
