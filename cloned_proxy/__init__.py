"""cloned-proxy: the egress firewall for AI-agent tools."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from cloned_proxy.fetch.errors import EgressBlockedError
    from cloned_proxy.fetch.safe_fetch import SafeFetch
    from cloned_proxy.runner.calls import ExecResult
    from cloned_proxy.runner.errors import SandboxError
    from cloned_proxy.runner.runner import DockerContainerRunner
    from cloned_proxy.runner.session import Session
    from cloned_proxy.runner.spec import Mount
    from cloned_proxy.store.egress_request import request_egress

__all__ = [
    "DockerContainerRunner",
    "EgressBlockedError",
    "ExecResult",
    "Mount",
    "SafeFetch",
    "SandboxError",
    "Session",
    "__version__",
    "request_egress",
]

__version__ = "0.1.0"
"""The one place where it is written; the wheel's own is read from here."""

_PLACES: Final = {
    "DockerContainerRunner": "cloned_proxy.runner.runner",
    "EgressBlockedError": "cloned_proxy.fetch.errors",
    "ExecResult": "cloned_proxy.runner.calls",
    "Mount": "cloned_proxy.runner.spec",
    "SafeFetch": "cloned_proxy.fetch.safe_fetch",
    "SandboxError": "cloned_proxy.runner.errors",
    "Session": "cloned_proxy.runner.session",
    "request_egress": "cloned_proxy.store.egress_request",
}


def __getattr__(name: str) -> Any:
    """Imports what is heavy (the engine's SDK, httpx, pydantic) when somebody asks for it, and not before."""
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
