"""`run`: a pipeline, each step a sandboxed tool; `run list` and `run show`: what pipelines made."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from cloned_proxy.cli.place.options import JsonOption, PolicyOption, WorkspaceOption


def run(
    *,
    pipeline: Annotated[
        str, typer.Argument(metavar="PIPELINE|list|show", help="Such as pipeline.research.report; list: all of them.")
    ],
    which: Annotated[
        str, typer.Argument(metavar="[ID]", help="For show: the run's id, or an end of it.", show_default=False)
    ] = "last",
    sandbox: Annotated[
        Literal["container", "process"],
        typer.Option("--sandbox", help="container: sealed. process: no engine needed, and no wall."),
    ] = "container",
    topic: Annotated[
        str | None, typer.Option("--topic", metavar="T", help="Short for --input '{\"topic\": T}'.")
    ] = None,
    given: Annotated[str | None, typer.Option("--input", metavar="JSON", help="The pipeline's inputs.")] = None,
    timeout: Annotated[
        float | None, typer.Option("--timeout", metavar="SECONDS", min=0.1, help="For each step, instead of its own.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="The model's words on stderr, as they come.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Run every handler, keep nothing, mark the audit entries.")
    ] = False,
    policy: PolicyOption = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a pipeline; each tool under its own name and rules. `run list` and `run show [ID]`: what was made."""
    if pipeline in ("list", "show"):
        from cloned_proxy.cli.commands.pipelines.kept_runs import list_runs, show_run

        if pipeline == "list":
            list_runs(workspace, as_json=as_json)
        else:
            show_run(workspace, which, as_json=as_json)
        return
    from cloned_proxy.cli.commands.pipelines.run_pipeline import RunOptions, run_and_report

    run_and_report(
        RunOptions(
            pipeline=pipeline,
            sandbox=sandbox,
            topic=topic,
            given=given,
            dry_run=dry_run,
            policy=policy,
            workspace=workspace,
            as_json=as_json,
            timeout=timeout,
            watch=watch,
        )
    )
