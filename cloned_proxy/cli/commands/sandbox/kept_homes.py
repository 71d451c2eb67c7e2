"""What `home list` and `home reset` do."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cloned_proxy.cli.place.arguments import typed
from cloned_proxy.cli.place.context import existing_workspace
from cloned_proxy.cli.show.errors import FAILED, CommandError, say
from cloned_proxy.cli.show.output import iso_time, put_json
from cloned_proxy.cli.show.tables import Row, ago, show_table
from cloned_proxy.policy.callers.tool_id import tool_id
from cloned_proxy.runner.files.homes import Homes, KeptHome
from cloned_proxy.runner.values.spec import MIB

if TYPE_CHECKING:
    from cloned_proxy.runner.files.disk import DiskUsage
    from cloned_proxy.store.workspaces.workspace import Workspace


def show_homes(directory: Path | None, *, as_json: bool) -> None:
    """One line a home. Raises StoreError."""
    place = existing_workspace(directory)
    found = [(home, home.usage()) for home in Homes(place.root).list()]
    if as_json:
        put_json([_data(home, usage) for home, usage in found])
    elif found:
        rows: list[Row] = [
            (home.tool, _size(usage), str(usage.entries), "yes" if home.in_use else "-", ago(home.last_used))
            for home, usage in found
        ]
        show_table(rows, ("TOOL", "SIZE", "ENTRIES", "IN USE", "LAST USED"))
    else:
        say("no home is kept; `cloned-proxy exec --home TOOL -- CMD` keeps one")


def reset_homes(directory: Path | None, tool: str | None, *, yes: bool, as_json: bool) -> None:
    """Removes one home, or all. Raises CommandError and SandboxError."""
    place = existing_workspace(directory)
    chosen = _chosen(place, tool)
    sizes = {home.tool: home.usage() for home in chosen}
    if chosen and not yes:
        _confirm(chosen, sizes)
    for home in chosen:
        Homes(place.root).reset(home.tool, lambda path, user: _sweep(place, path, user))
        if not as_json:
            say(f"{home.tool}: its home is gone ({_size(sizes[home.tool])}); the next `exec --home` begins a new one")
    if as_json:
        put_json([{"tool": home.tool, "bytes": sizes[home.tool].size} for home in chosen])
    elif not chosen:
        say("no home is kept")


def _chosen(place: Workspace, tool: str | None) -> Sequence[KeptHome]:
    found = Homes(place.root).list()
    if tool is None:
        return found
    typed(tool_id, tool)
    chosen = [home for home in found if home.tool == tool]
    if not chosen:
        raise CommandError(f"{tool} has no kept home; `cloned-proxy home list` shows them")
    return chosen


def _confirm(chosen: Sequence[KeptHome], sizes: dict[str, DiskUsage]) -> None:
    import typer

    if not sys.stdin.isatty():
        raise CommandError("nobody to ask at this terminal: --yes removes without a question")
    for home in chosen:
        say(f"{home.tool}  {_size(sizes[home.tool])}  {home.path}")
    if not typer.confirm("Remove what is above for good?", err=True):
        raise CommandError("nothing was removed", code=FAILED)


def _sweep(place: Workspace, path: Path, user: str) -> None:
    """Empties the directory in a container, as its own user. Needs an engine only then."""
    import contextlib

    from cloned_proxy.runner.docker.engine import Engine
    from cloned_proxy.runner.runs.sweeping import sweep_directory

    with contextlib.closing(Engine.connect()) as engine:
        sweep_directory(engine, place.root, path, user)


def _data(home: KeptHome, usage: DiskUsage) -> dict[str, object]:
    return {
        "tool": home.tool,
        "bytes": usage.size,
        "entries": usage.entries,
        "complete": _complete(usage),
        "user": home.user,
        "in_use": home.in_use,
        "last_used": iso_time(home.last_used),
        "path": str(home.path),
    }


def _complete(usage: DiskUsage) -> bool:
    return not usage.closed and not usage.too_deep


def _size(usage: DiskUsage) -> str:
    """What is in directories that this user may not read is not known."""
    return f"{'' if _complete(usage) else 'at least '}{usage.size / MIB:.1f} MiB"
