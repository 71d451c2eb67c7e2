"""`status`: what serves this workspace, and what a person wants to know of it first."""

from __future__ import annotations

import typer

from cloned_proxy.cli.place.options import JsonOption, PolicyOption, WorkspaceOption
from cloned_proxy.cli.show.errors import FAILED


def status(*, workspace: WorkspaceOption = None, policy: PolicyOption = None, as_json: JsonOption = False) -> None:
    """Print what serves and what it refused; exit 1 for nothing."""
    from cloned_proxy.cli.commands.status.overview import lines, look
    from cloned_proxy.cli.place.context import existing_workspace
    from cloned_proxy.cli.show.output import put, put_json, with_iso_times

    found = look(existing_workspace(workspace), policy)
    if as_json:
        put_json(with_iso_times(found.as_data()))
    else:
        for line in lines(found):
            put(line)
    if found.live is None:
        raise typer.Exit(FAILED)
