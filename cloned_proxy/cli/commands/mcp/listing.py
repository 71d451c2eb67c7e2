"""`mcp list`: the servers of a workspace."""

from __future__ import annotations

from pathlib import Path

from cloned_proxy.cli.place.context import existing_workspace
from cloned_proxy.cli.show.output import put, put_json, short_path, table
from cloned_proxy.policy.secrets.redact import hide_arguments
from cloned_proxy.runner.mcp.registry import ServerRegistry
from cloned_proxy.runner.mcp.undo import UndoRecord


def print_servers(workspace: Path | None, *, as_json: bool) -> None:
    """Raises CommandError for no workspace, StoreError for a list that cannot be read."""
    place = existing_workspace(workspace)
    servers, files = ServerRegistry(place).servers, UndoRecord(place).files
    started = {
        name: [path for path, file in files.items() if any(each.server == name for each in file.servers)]
        for name in servers
    }
    if as_json:
        put_json([{"name": name, **server.model_dump(), "files": started[name]} for name, server in servers.items()])
        return
    rows = [
        (name, server.tool, server.package or " ".join((server.command, *hide_arguments(server.args))),
         ", ".join(map(short_path, started[name])) or "-")
        for name, server in servers.items()
    ]  # fmt: skip
    for line in table(rows, ("NAME", "TOOL", "RUNS", "STARTED BY")):
        put(line)
