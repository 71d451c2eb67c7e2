"""`home list|reset`: the homes that `exec --home` keeps."""

from __future__ import annotations

from typing import Annotated

import typer

from cloned_proxy.cli.place.options import JsonOption, WorkspaceOption

app = typer.Typer(help="The homes that `exec --home` keeps.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def list_homes(*, workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """Print each tool's kept home, its size and when it was last used."""
    from cloned_proxy.cli.commands.sandbox.kept_homes import show_homes

    show_homes(workspace, as_json=as_json)


@app.command("reset")
def reset(
    *,
    tool: Annotated[str | None, typer.Argument(metavar="[TOOL]", help="Tool id; default: every tool.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove a tool's kept home with everything in it; asks first."""
    from cloned_proxy.cli.commands.sandbox.kept_homes import reset_homes

    reset_homes(workspace, tool, yes=yes, as_json=as_json)
