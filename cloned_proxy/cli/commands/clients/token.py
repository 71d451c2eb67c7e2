"""`token`: a signed credential for one tool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cloned_proxy.cli.place.options import JsonOption, WorkspaceOption

if TYPE_CHECKING:
    from cloned_proxy.policy.callers.identity import Claims
    from cloned_proxy.store.workspaces.workspace import Workspace


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

    from cloned_proxy.cli.place.arguments import typed
    from cloned_proxy.cli.place.context import existing_workspace
    from cloned_proxy.cli.show.output import iso_time, put, put_json
    from cloned_proxy.policy.callers.identity import Claims, proxy_url
    from cloned_proxy.policy.callers.tool_id import tool_id
    from cloned_proxy.policy.terms.units import parse_term
    from cloned_proxy.store.workspaces.proxy_url import NO_PROXY

    expires = time.time() + typed(parse_term, ttl, "--ttl")
    typed(tool_id, tool)
    place = existing_workspace(workspace)
    authority = authority_of(place)
    run = f"cli-{secrets.token_hex(4)}"
    minted = _mint(place, Claims(tool, run, expires))
    url = proxy_url(tool, minted, authority)
    if as_json:
        put_json({"tool": tool, "run": run, "expires": iso_time(expires), "token": minted, "proxy": url})
        return
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        put(f"{name}={url}")
    for name in ("NO_PROXY", "no_proxy"):
        put(f"{name}={NO_PROXY}")


def _mint(place: Workspace, claims: Claims) -> str:
    """With the fleet's key where this machine has it; else with that of the workspace, for its own proxy alone."""
    from cloned_proxy.cli.show.errors import say
    from cloned_proxy.policy.callers.identity import mint_token
    from cloned_proxy.store.workspaces.keys import load_or_create_key

    fleet = place.config().fleet if place.config_file.exists() else None
    if fleet is None:
        return mint_token(load_or_create_key(place.identity_key), claims)
    import os
    import time

    from cloned_proxy.fleet.link.libraries import need_libraries
    from cloned_proxy.store.files.errors import StoreError

    need_libraries()
    from cloned_proxy.fleet.signed.signing import signing_key
    from cloned_proxy.fleet.tokens.tool_tokens import mint_tool_token

    try:
        key = signing_key(place, fleet.key, os.environ)
    except StoreError:
        if fleet.key not in {"auto", "file"} or place.fleet_key.exists(follow_symlinks=False):
            raise
        say("cloned-proxy: no signing key of the fleet is here: the credential is for this workspace's proxy alone")
        return mint_token(load_or_create_key(place.identity_key), claims)
    if key.public not in fleet.trust:
        say("cloned-proxy: `fleet.trust` of this workspace does not name this key; replicas that trust it accept it")
    return mint_tool_token(key, claims, fleet=fleet.name, now=time.time())


def authority_of(place: Workspace) -> str:
    """`host:port` of the proxy for the credential. Raises CommandError rather than name one of another workspace."""
    from cloned_proxy.cli.place.context import proxy_of, wrong_proxy
    from cloned_proxy.cli.show.errors import FAILED, CommandError, say

    found = proxy_of(place)
    if found.known is None:
        raise CommandError(
            f"no proxy serves {place.root}: start it with `cloned-proxy serve`, or name it with "
            "`cloned-proxy proxy --set http://HOST:PORT`",
            code=FAILED,
        )
    if problem := wrong_proxy(place, found):
        raise CommandError(f"{problem}; a credential of this workspace does not go there")
    if found.serving is not None and found.serving != found.known:
        say(f"cloned-proxy: this names {found.known}, as was set; the proxy at {found.serving} serves this workspace")
    return found.authority
