"""What `mcp run` has to know of a server: clients wait for it, so what was read before is not read by models again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from cloned_proxy.store.settings.settings_cache import cached_settings

if TYPE_CHECKING:
    from cloned_proxy.runner.mcp.registry import Start
    from cloned_proxy.store.workspaces.workspace import Workspace

WORD_VARIABLE: Final = "CLONED_MCP_"
"""Begins the names of variables by which a client hands over what it fills in: words of a line."""
_MODELS: Final = Path(__file__).with_name("registry.py")


def start_of(workspace: Workspace, name: str) -> Start:
    """The server of that name. Raises StoreError for none, and for a file that is not accepted."""

    def read() -> Start:
        from cloned_proxy.runner.mcp.registry import ServerRegistry, Start  # noqa: PLC0415  the models

        registry = ServerRegistry(workspace)
        return Start(engine=registry.engine, server=registry.server(name))

    return cached_settings(f"mcp {name}", workspace.root / "mcp.yaml", _MODELS, read)
