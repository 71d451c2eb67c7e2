"""`token`: a signed credential for one tool."""

from __future__ import annotations

from typing import Annotated

import typer

from cloned_proxy.cli.options import JsonOption, WorkspaceOption


def token(
    tool: Annotated[str, typer.Argument(metavar="TOOL", help="Tool id, such as cloned.mcp.web.search@v1.")],
    *,
    ttl: Annotated[str, typer.Option("--ttl", metavar="DURATION", help="How long it is good for.")] = "1h",
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Mint a credential for a tool, ready to export."""
    import secrets
    import time

    from cloned_proxy.cli.context import proxy_of
    from cloned_proxy.cli.durations import parse_duration
    from cloned_proxy.cli.errors import CommandError
    from cloned_proxy.cli.output import iso_time, put, put_json
    from cloned_proxy.cli.place import workspace_to_write
    from cloned_proxy.policy.identity import Claims, mint_token, proxy_url, valid_tool_id
    from cloned_proxy.store.keys import load_or_create_key

    try:
        expires = time.time() + parse_duration(ttl)
    except ValueError as error:
        raise CommandError(f"--ttl: {error}") from error
    if not valid_tool_id(tool):
        raise CommandError(f"{tool!r} is not a tool id; write one such as cloned.mcp.web.search@v1")
    place = workspace_to_write(workspace)
    run = f"cli-{secrets.token_hex(4)}"
    minted = mint_token(load_or_create_key(place.identity_key), Claims(tool, run, expires))
    url = proxy_url(tool, minted, proxy_of(place).authority)
    if as_json:
        put_json({"tool": tool, "run": run, "expires": iso_time(expires), "token": minted, "proxy": url})
        return
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        put(f"{name}={url}")
