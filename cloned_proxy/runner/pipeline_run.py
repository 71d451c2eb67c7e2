"""Runs a pipeline, step after step, and keeps what it made."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from cloned_proxy.runner.errors import SandboxError, ToolFailedError
from cloned_proxy.runner.job import ToolResult
from cloned_proxy.runner.pipeline import Pipeline, Step, complete_inputs, resolve
from cloned_proxy.store.atomic import write_atomically

ARTIFACT: Final = "artifact.md"
MANIFEST: Final = "manifest.json"
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
        input: Any,  # noqa: A002  the word of contract section 8
        ctx: Any = None,
        *,
        timeout: float | None = None,
        files: tuple[str, ...] = (),
        dry_run: bool = False,
    ) -> ToolResult: ...


@dataclass(frozen=True, slots=True)
class StepReport:
    id: str
    tool: str
    run: str
    seconds: float


@dataclass(frozen=True, slots=True)
class PipelineReport:
    pipeline: str
    steps: tuple[StepReport, ...]
    artifact: Path | None
    """None in a dry run, and for a pipeline without one."""
    output: Any
    """Of the last step."""


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
) -> PipelineReport:
    """Runs every step. `hint_for` looks up what the proxy said to a tool since a time (Unix seconds).

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
            ctx = {"pipeline": pipeline.id, "step": step.id, "settings": settings_of(step.tool, environ)}
            files = (ARTIFACT, MANIFEST) if step.artifact else ()
            result = runner.run_tool(
                step.tool,
                resolve(step.input, inputs, outputs),
                ctx,
                timeout=step.timeout,
                files=files,
                dry_run=dry_run,
            )
            if step.artifact and not dry_run:
                kept = keep_artifact(artifacts, pipeline.id, result, done)
        except SandboxError as error:
            raise StepError(step, error, hint_for(step.tool, began)) from error
        outputs[step.id] = result.output
        done.append(StepReport(step.id, step.tool, result.run, result.seconds))
        progress(f"{number}/{len(pipeline.steps)} {step.id} done in {result.seconds:.2f} s")
    return PipelineReport(pipeline.id, tuple(done), kept, outputs[pipeline.steps[-1].id])


def settings_of(tool: str, environ: Mapping[str, str]) -> dict[str, str]:
    """What a built-in tool gets of this process's environment."""
    wanted = _SETTINGS.get(tool, {})
    return {setting: environ[variable] for setting, variable in wanted.items() if environ.get(variable)}


def keep_artifact(artifacts: Path, pipeline: str, result: ToolResult, steps: list[StepReport]) -> Path:
    """Moves an artifact to its place, with a manifest of our own beside the tool's word. Raises ToolFailedError."""
    text = result.files[ARTIFACT]
    try:
        said = json.loads(result.files[MANIFEST])
        title = str(said["title"])
    except (ValueError, KeyError, TypeError) as error:
        raise ToolFailedError(f"{MANIFEST} of the tool is not a manifest: {error}") from error
    digest = hashlib.sha256(text).hexdigest()
    if said.get("sha256") != digest:
        raise ToolFailedError(f"{MANIFEST} speaks of another {ARTIFACT}: the digests differ")
    slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:60] or "artifact"
    folder = artifacts / f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{slug}-{result.run[-8:]}"
    folder.mkdir(mode=0o700, parents=True)
    manifest = {
        "title": title,
        "file": ARTIFACT,
        "sha256": digest,
        "bytes": len(text),
        "sources": said.get("sources", []),
        "pipeline": pipeline,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "runs": {step.id: {"tool": step.tool, "run": step.run} for step in steps},
        "saved_by": result.run,
    }
    write_atomically(folder / ARTIFACT, text)
    write_atomically(folder / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False).encode() + b"\n")
    return folder / ARTIFACT
