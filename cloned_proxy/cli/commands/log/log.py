"""`log`: decisions, requests, runs, probes and changes of the policy, as they were recorded, or as they happen."""

from __future__ import annotations

from typing import Annotated

import typer

from cloned_proxy.cli.place.options import JsonOption, ToolOption, WorkspaceOption


def log(
    *,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with each new one, until interrupted.")] = False,
    denied: Annotated[bool, typer.Option("--denied", help="Only what was refused, retries of a call in one.")] = False,
    tool: ToolOption = None,
    since: Annotated[str | None, typer.Option("--since", metavar="DURATION", help="Such as 1h or 7d.")] = None,
    limit: Annotated[
        int | None,
        typer.Option("-n", "--limit", metavar="N", min=0, help="The newest N, 0 for all; at a terminal 200, else all."),
    ] = None,
    fleet: Annotated[bool, typer.Option("--fleet", help="Of all replicas, as the fleet's store has them.")] = False,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print what is on record: decisions, requests, runs, edits. --json is one object a line."""
    if fleet:
        from cloned_proxy.cli.commands.log.fleet_log import print_fleet_log

        print_fleet_log(
            follow=follow, denied=denied, tool=tool, since=since, limit=limit, workspace=workspace, as_json=as_json
        )
        return
    from cloned_proxy.cli.commands.log.log_reader import print_log

    print_log(follow=follow, denied=denied, tool=tool, since=since, limit=limit, workspace=workspace, as_json=as_json)
