"""`run`: a pipeline, each step a sandboxed tool."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from cloned_proxy.cli.options import JsonOption, PolicyOption, WorkspaceOption


def run(
    *,
    pipeline: Annotated[str, typer.Argument(metavar="PIPELINE", help="Such as pipeline.research.report.")],
    sandbox: Annotated[
        Literal["container", "process"],
        typer.Option("--sandbox", help="container: sealed. process: no engine needed, and no wall."),
    ] = "container",
    topic: Annotated[
        str | None, typer.Option("--topic", metavar="T", help="Short for --input '{\"topic\": T}'.")
    ] = None,
    given: Annotated[str | None, typer.Option("--input", metavar="JSON", help="The pipeline's inputs.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Run every handler, keep nothing, mark the audit entries.")
    ] = False,
    policy: PolicyOption = None,
    workspace: WorkspaceOption = None,
    json_output: JsonOption = False,
) -> None:
    """Run a pipeline; each tool under its own name and rules."""
    from cloned_proxy.cli.pipelines import RunOptions, run_and_report

    run_and_report(
        RunOptions(
            pipeline=pipeline,
            sandbox=sandbox,
            topic=topic,
            given=given,
            dry_run=dry_run,
            policy=policy,
            workspace=workspace,
            as_json=json_output,
        )
    )
