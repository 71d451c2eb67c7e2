"""`explain`: what the proxy would answer, and why, by the very functions that it asks itself."""

from __future__ import annotations

from typing import Annotated

import typer

from cloned_proxy.cli.place.options import JsonOption, PolicyOption, ToolOption, WorkspaceOption


def explain(
    what: Annotated[
        str,
        typer.Argument(
            metavar="URL|DECISION_ID", help="As a client would ask; a host alone is https; or an id of a 403."
        ),
    ],
    *,
    tool: ToolOption = None,
    method: Annotated[
        str | None, typer.Option("--method", metavar="METHOD", help="The request's method; default: GET.")
    ] = None,
    resolve: Annotated[
        bool, typer.Option("--resolve", help="Ask DNS for the name, too; names of /etc/hosts are looked up anyway.")
    ] = False,
    workspace: WorkspaceOption = None,
    policy: PolicyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the verdict on a URL or a decision; exit 1 when denied."""
    from cloned_proxy.cli.commands.rules.explain_verdict import print_verdict

    code = print_verdict(
        what, tool=tool, method=method, resolve=resolve, workspace=workspace, policy=policy, as_json=as_json
    )
    if code:
        raise typer.Exit(code)
