"""`list`: the effective rules, how they have been used, and which have not."""

from __future__ import annotations

from typing import Annotated

import typer

from cloned_proxy.cli.place.options import JsonOption, PolicyOption, ToolOption, WorkspaceOption


def list_rules(
    *,
    tool: ToolOption = None,
    stale: Annotated[
        str | None,
        typer.Option(
            "--stale", metavar="DURATION", help="Only allow rules unused for so long, as commands to remove them."
        ),
    ] = None,
    workspace: WorkspaceOption = None,
    policy: PolicyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the effective rules, and how they have been used."""
    from cloned_proxy.cli.commands.rules.rule_list import print_rules

    print_rules(tool=tool, stale=stale, workspace=workspace, policy=policy, as_json=as_json)
