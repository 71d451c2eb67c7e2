"""What `run` does: inputs from the command line, a runner, progress on stderr, the result on stdout."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from cloned_proxy.cli.show.errors import CommandError, say
from cloned_proxy.cli.show.output import put, put_json, visible
from cloned_proxy.cli.terminal.interruption import interruptible
from cloned_proxy.runner.pipelines.artifacts import StepReport
from cloned_proxy.runner.pipelines.pipeline import defaults_used, how_to_give, load_pipeline
from cloned_proxy.runner.pipelines.pipeline_run import PipelineReport, ToolRunner, run_pipeline
from cloned_proxy.runner.runs.process import ProcessRunner
from cloned_proxy.runner.runs.runner import DockerContainerRunner
from cloned_proxy.runner.slots.standby import proxy_for
from cloned_proxy.store.audit.audit_log import AuditLog
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.workspaces.workspace import Workspace
from cloned_proxy.telemetry.log import configure_logging

_RECORDED_SECONDS: Final = 0.2
"""Decisions are on disk within 50 ms of being made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    pipeline: str
    sandbox: str
    topic: str | None
    given: str | None
    dry_run: bool
    policy: Path | None
    workspace: Path | None
    as_json: bool
    timeout: float | None
    watch: bool


def run_and_report(options: RunOptions) -> None:
    """Raises CommandError and SandboxError."""
    configure_logging()
    workspace = Workspace.find(options.workspace)
    workspace.create()
    pipeline = load_pipeline(options.pipeline, workspace.root)
    inputs = _inputs(options)
    for name, value in defaults_used(pipeline, inputs).items():
        say(f"{name}: {value} (the default; another: {how_to_give(name)})")
    with (
        interruptible(),
        proxy_for(workspace.root, say, policy=options.policy),
        _runner(options, workspace) as runner,
    ):
        report = run_pipeline(
            pipeline,
            inputs,
            runner,
            artifacts=workspace.artifacts_directory,
            environ=os.environ,
            progress=say,
            hint_for=lambda tool, since: _last_hint(workspace, tool, since),
            dry_run=options.dry_run,
            timeout=options.timeout,
            watch=_print_words if options.watch else None,
        )
    _show(report, options)


def _print_words(piece: bytes) -> None:
    """The model's words on stderr as they come. Line ends pass; what could drive the terminal does not."""
    text = "\n".join(visible(line) for line in piece.decode(errors="replace").split("\n"))
    sys.stderr.write(text)
    sys.stderr.flush()


@contextlib.contextmanager
def _runner(options: RunOptions, workspace: Workspace) -> Iterator[ToolRunner]:
    if options.sandbox == "process":
        say("--sandbox process asks tools to use the proxy; only --sandbox container makes them")
        yield ProcessRunner(workspace=workspace.root, timeout=workspace.config().sandbox.timeout)
        return
    with DockerContainerRunner(workspace=workspace.root, spare_slots=1) as runner:
        yield runner


def _inputs(options: RunOptions) -> dict[str, Any]:
    try:
        given = json.loads(options.given) if options.given is not None else {}
    except ValueError as error:
        raise CommandError(f"--input: not JSON: {error}") from error
    if not isinstance(given, dict):
        raise CommandError('--input: write an object such as {"topic": "egress filtering"}')
    return {**given, **({"topic": options.topic} if options.topic is not None else {})}


def _last_hint(workspace: Workspace, tool: str, since: float) -> str:
    """What would allow the request that the proxy refused the tool last; "" when it refused none."""
    time.sleep(_RECORDED_SECONDS)
    try:
        with AuditLog(workspace.state_db) as audit:
            refused = list(audit.entries(denied=True, tool=tool, since=since, last=1))
    except StoreError:
        return ""
    return str(refused[-1].body.get("hint", "")) if refused else ""


def _show(report: PipelineReport, options: RunOptions) -> None:
    if options.as_json:
        put_json(
            {
                "pipeline": report.pipeline,
                "dry_run": options.dry_run,
                "steps": [asdict(step) for step in report.steps],
                "artifact": str(report.artifact) if report.artifact is not None else None,
                "page": str(report.page) if report.page is not None else None,
                "truncated": bool(report.truncated),
                "output": report.output,
            }
        )
        return
    total = sum(step.seconds for step in report.steps)
    for step in report.steps:
        say(f"  {step.id:<12} {step.seconds:6.2f} s  {step.tool}  run {step.run}")
    say(f"  {'total':<12} {total:6.2f} s")
    for step in report.truncated:
        say(_why_cut(step))
    if report.artifact is not None:
        put(str(report.artifact))
        say(f"in a browser: {report.page}")
    elif options.dry_run:
        say("dry run: nothing was saved")


def _why_cut(step: StepReport) -> str:
    reason = step.costs.finish_reason if step.costs is not None else None
    if reason == "length":
        fix = "raise --input '{\"max_tokens\": N}', or the context of the model's server"
        return f"the model's answer in step {step.id} is cut off (finish_reason: length): {fix}"
    return f"the model's answer in step {step.id} may be incomplete (finish_reason: {reason or 'none was given'})"
