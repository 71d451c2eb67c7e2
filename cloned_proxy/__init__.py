"""cloned-proxy: the egress firewall for AI-agent tools."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloned_proxy.runner.runner import DockerContainerRunner
    from cloned_proxy.store.egress_request import request_egress

__all__ = ["DockerContainerRunner", "request_egress"]


def __getattr__(name: str) -> Any:
    """Imports what is heavy (the engine's SDK, pydantic) when somebody asks for it, and not before."""
    if name == "DockerContainerRunner":
        from cloned_proxy.runner.runner import DockerContainerRunner  # noqa: PLC0415  lazy on purpose

        return DockerContainerRunner
    if name == "request_egress":
        from cloned_proxy.store.egress_request import request_egress  # noqa: PLC0415  lazy on purpose

        return request_egress
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
