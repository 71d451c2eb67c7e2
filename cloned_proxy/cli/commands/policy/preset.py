"""`preset`: named sets of hosts, each with its source and the date on which somebody looked."""

from __future__ import annotations

from typing import Annotated

import typer

from cloned_proxy.cli.place.options import JsonOption, WorkspaceOption

app = typer.Typer(help="Show the named sets of hosts that `allow --preset` takes.", no_args_is_help=True)


@app.command("list")
def list_presets(*, workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """Print every preset, with what it is for. The workspace's own are marked."""
    from cloned_proxy.cli.editing.presets import known_presets
    from cloned_proxy.cli.show.output import put_json
    from cloned_proxy.cli.show.tables import show_table
    from cloned_proxy.store.workspaces.workspace import Workspace

    found = known_presets(Workspace.find(workspace))
    if as_json:
        put_json(found)
        return
    rows = [(each["name"], each["from"], each["checked"] or "-", each["about"]) for each in found]
    show_table(rows, ("NAME", "FROM", "CHECKED", "ABOUT"))


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `preset list` has it.")],
    *,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print what a preset allows, and where each host of it comes from."""
    from cloned_proxy.cli.editing.presets import preset_data, preset_lines
    from cloned_proxy.cli.show.output import put, put_json
    from cloned_proxy.store.workspaces.workspace import Workspace

    told = preset_data(Workspace.find(workspace), name)
    if as_json:
        put_json(told)
        return
    for line in preset_lines(told):
        put(line)
