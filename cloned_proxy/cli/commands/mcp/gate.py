"""`mcp gate` on the host: the server of `sandbox/worker/cloned_gate.py`, with a credential for each of its tools."""

from __future__ import annotations

import importlib
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from cloned_proxy import __version__
from cloned_proxy.cli.editing.editing import check_tool
from cloned_proxy.cli.place.context import existing_workspace, proxy_of
from cloned_proxy.cli.show.errors import CommandError
from cloned_proxy.policy.callers.identity import Claims, mint_token, proxy_url
from cloned_proxy.runner.mcp.registry import ServerRegistry
from cloned_proxy.share import share_path
from cloned_proxy.store.workspaces.keys import load_or_create_key
from cloned_proxy.store.workspaces.workspace import Workspace

_TOKEN_SECONDS: Final = 300.0
"""One is made for each call, which takes a few seconds, or waits on one connection a second."""


def serve_gate(tools: Sequence[str], *, workspace: Path | None) -> None:
    """Answers on stdin and stdout until the end of the input. Raises CommandError or StoreError."""
    place = existing_workspace(workspace)
    for tool in tools:
        check_tool(tool)
    served = tools or [server.tool for server in ServerRegistry(place).servers.values()]
    if not served:
        raise CommandError(
            f"{place.root} has no MCP servers to ask for; wrap some (`cloned-proxy mcp wrap FILE`), or name --tool TOOL"
        )
    run = f"gate-{secrets.token_hex(4)}"
    proxies = {tool: _proxy_for(place, tool, run) for tool in dict.fromkeys(served)}
    _gate().Gate(proxies, __version__, sys.stdout.buffer).serve(sys.stdin.buffer)


def _proxy_for(place: Workspace, tool: str, run: str) -> Callable[[], str]:
    def proxy() -> str:
        found = proxy_of(place)
        if found.known is None:
            raise CommandError(f"no proxy serves {place.root}: start it with `cloned-proxy serve`")
        key = load_or_create_key(place.identity_key)
        token = mint_token(key, Claims(tool, run, time.time() + _TOKEN_SECONDS))
        return proxy_url(tool, token, found.authority)

    return proxy


def _gate() -> Any:
    """The module that sandboxes have, too; it is no part of this package."""
    sys.dont_write_bytecode = True  # what lies there goes into the image
    sys.path.append(str(share_path("sandbox", "worker")))
    return importlib.import_module("cloned_gate")
