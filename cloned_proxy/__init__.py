"""cloned-proxy: the egress firewall for AI-agent tools."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloned_proxy.runner.runner import DockerContainerRunner

__all__ = ["DockerContainerRunner"]


def __getattr__(name: str) -> Any:
    """Imports the engine's SDK when somebody asks for the runner, and not before."""
    if name == "DockerContainerRunner":
        from cloned_proxy.runner.runner import DockerContainerRunner  # noqa: PLC0415  lazy on purpose

        return DockerContainerRunner
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
