"""`llm up|down|status`: the local model, sealed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cloned_proxy.cli.options import JsonOption, WorkspaceOption

app = typer.Typer(
    help="The local model (LocalAI), sealed, on 127.0.0.1:8080 only.", no_args_is_help=True, rich_markup_mode=None
)


@app.command("up")
def up(
    *,
    models: Annotated[
        Path | None, typer.Option("--models", metavar="DIR", help="Models; default: ./models beside the workspace.")
    ] = None,
    wait: Annotated[float, typer.Option("--wait", metavar="SECONDS", help="For the model to be ready.")] = 120.0,
    workspace: WorkspaceOption = None,
) -> None:
    """Start LocalAI without any way out. A relay on 127.0.0.1:8080 leads to it."""
    from cloned_proxy.cli.local_model import bring_up

    bring_up(workspace, models, wait)


@app.command("down")
def down(*, workspace: WorkspaceOption = None) -> None:
    """Stop both."""
    from cloned_proxy.cli.local_model import take_down

    take_down(workspace)


@app.command("status")
def status(*, workspace: WorkspaceOption = None, json_output: JsonOption = False) -> None:
    """Whether the model runs and answers; exit 1 when it does not."""
    from cloned_proxy.cli.local_model import show_status

    show_status(workspace, as_json=json_output)
