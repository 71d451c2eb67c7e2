"""`connect`: a tunnel through the proxy on stdin and stdout, such as ssh wants of its ProxyCommand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from cloned_proxy.cli.place.options import WorkspaceOption

if TYPE_CHECKING:
    from pathlib import Path

_SECONDS: Final = 300
"""The life of the credential: it is looked at once, when the tunnel is opened."""


def connect(
    host: Annotated[str, typer.Argument(metavar="HOST", help="A name, or an address without brackets.")],
    port: Annotated[int, typer.Argument(metavar="PORT", min=1, max=65535)],
    *,
    tool: Annotated[str | None, typer.Option("--tool", metavar="TOOL", help="Under this tool's rules.")] = None,
    workspace: WorkspaceOption = None,
) -> None:
    """Open a tunnel on stdin and stdout, as a ProxyCommand of ssh."""
    import os
    import sys

    from cloned_proxy.share import share_path

    script = str(share_path("sandbox", "worker", "connect.py"))
    environment = {**os.environ, "CLONED_CONNECT_NAME": "cloned-proxy", "HTTPS_PROXY": _proxy(tool, workspace)}
    # In the place of this process: signals, and the ends of both streams, are the tunnel's own.
    os.execve(sys.executable, [sys.executable, "-I", script, "--", host, str(port)], environment)  # noqa: S606  ours


def _proxy(tool: str | None, workspace: Path | None) -> str:
    """The URL of the proxy of the workspace, with the tool's credential, or with the one that is exported for it."""
    import os
    import secrets
    import time
    from urllib.parse import urlsplit

    from cloned_proxy.cli.commands.clients.token import authority_of
    from cloned_proxy.cli.place.arguments import typed
    from cloned_proxy.cli.place.context import existing_workspace
    from cloned_proxy.cli.show.errors import CommandError
    from cloned_proxy.policy.callers.identity import Claims, mint_token, proxy_url
    from cloned_proxy.policy.callers.tool_id import tool_id
    from cloned_proxy.store.workspaces.keys import load_or_create_key
    from cloned_proxy.store.workspaces.workspace import Workspace

    if not Workspace.find(workspace).root.is_dir():
        # As a ProxyCommand it also runs for those who should not learn which other workspaces are served.
        raise CommandError("there is no workspace here; name one by --workspace DIR or CLONED_WORKSPACE")
    place = existing_workspace(workspace)
    authority = authority_of(place)
    if tool is None:
        exported = os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy") or ""
        try:
            ours = urlsplit(exported).netloc.rpartition("@")[2] == authority
        except ValueError:
            ours = False
        return exported if ours else f"http://{authority}"
    typed(tool_id, tool)
    claims = Claims(tool, f"cli-{secrets.token_hex(4)}", time.time() + _SECONDS)
    return proxy_url(tool, mint_token(load_or_create_key(place.identity_key), claims), authority)
