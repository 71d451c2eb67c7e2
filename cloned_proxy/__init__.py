"""cloned-proxy: the egress firewall for AI-agent tools."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloned_proxy.fetch.errors import EgressBlockedError
    from cloned_proxy.fetch.safe_fetch import SafeFetch
    from cloned_proxy.runner.runner import DockerContainerRunner

__all__ = ["DockerContainerRunner", "EgressBlockedError", "SafeFetch"]

_PLACES = {
    "DockerContainerRunner": "cloned_proxy.runner.runner",
    "EgressBlockedError": "cloned_proxy.fetch.errors",
    "SafeFetch": "cloned_proxy.fetch.safe_fetch",
}


def __getattr__(name: str) -> Any:
    """Imports what somebody asks for, and not before: the engine's SDK and httpx take their time."""
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
