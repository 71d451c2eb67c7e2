"""`explain`: what the proxy would answer, and why, by the very function that it asks itself."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cloned_proxy.cli.errors import FAILED
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
    from cloned_proxy.cli.output import put, put_json
    from cloned_proxy.cli.verdict import explained, lines

    told: dict[str, Any] = explained(url, tool=tool, method=method.upper(), workspace=workspace, policy_file=policy)
    if as_json:
        put_json(told)
    else:
        for line in lines(told):
            put(line)
    if told["verdict"] == "deny":
        raise typer.Exit(FAILED)
