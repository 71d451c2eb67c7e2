"""`explain`: what the proxy would answer, and why, by the very function that it asks itself."""

from __future__ import annotations

from typing import Annotated

import typer

from cloned_proxy.cli.options import JsonOption, PolicyOption, ToolOption, WorkspaceOption


def explain(
    url: Annotated[str, typer.Argument(metavar="URL", help="http:// or https://, as a client would ask for it.")],
    *,
    tool: ToolOption = None,
    method: Annotated[str, typer.Option("--method", metavar="METHOD", help="The request's method.")] = "GET",
    workspace: WorkspaceOption = None,
    policy: PolicyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the verdict on a URL, and why; exit 1 when denied."""
    from cloned_proxy.cli.verdict import print_verdict

    if code := print_verdict(url, tool=tool, method=method, workspace=workspace, policy=policy, as_json=as_json):
        raise typer.Exit(code)
