"""cloned-proxy: the egress firewall for AI-agent tools."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from cloned_proxy.fetch.errors import EgressBlockedError
    from cloned_proxy.fetch.safe_fetch import SafeFetch
    from cloned_proxy.policy.model.model import Policy
    from cloned_proxy.policy.reading.parse import PolicyError
    from cloned_proxy.policy.terms.decision import Decision
    from cloned_proxy.policy.terms.vocabulary import Reason, Verdict
    from cloned_proxy.runner.runs.calls import ExecResult
    from cloned_proxy.runner.runs.job import ToolResult
    from cloned_proxy.runner.runs.runner import DockerContainerRunner
    from cloned_proxy.runner.runs.session import Session
    from cloned_proxy.runner.values.errors import (
        EngineError,
        ProxyLinkError,
        RunCancelledError,
        SandboxError,
        SandboxInputError,
        ToolFailedError,
        ToolLimitError,
        ToolTimeoutError,
    )
    from cloned_proxy.runner.values.spec import Mount
    from cloned_proxy.store.approvals.approval import Approval
    from cloned_proxy.store.approvals.approval_errors import ApprovalError, TooManyRequestsError
    from cloned_proxy.store.approvals.egress_request import EgressRequest, request_egress
    from cloned_proxy.store.files.errors import StoreError
    from cloned_proxy.testing import decide, load_policy

__version__ = "0.2.0"
"""The one place where it is written; the wheel's own is read from here."""

_PLACES: Final = {
    "Approval": "cloned_proxy.store.approvals.approval",
    "ApprovalError": "cloned_proxy.store.approvals.approval_errors",
    "Decision": "cloned_proxy.policy.terms.decision",
    "DockerContainerRunner": "cloned_proxy.runner.runs.runner",
    "EgressBlockedError": "cloned_proxy.fetch.errors",
    "EgressRequest": "cloned_proxy.store.approvals.egress_request",
    "EngineError": "cloned_proxy.runner.values.errors",
    "ExecResult": "cloned_proxy.runner.runs.calls",
    "Mount": "cloned_proxy.runner.values.spec",
    "Policy": "cloned_proxy.policy.model.model",
    "PolicyError": "cloned_proxy.policy.reading.parse",
    "ProxyLinkError": "cloned_proxy.runner.values.errors",
    "Reason": "cloned_proxy.policy.terms.vocabulary",
    "RunCancelledError": "cloned_proxy.runner.values.errors",
    "SafeFetch": "cloned_proxy.fetch.safe_fetch",
    "SandboxError": "cloned_proxy.runner.values.errors",
    "SandboxInputError": "cloned_proxy.runner.values.errors",
    "Session": "cloned_proxy.runner.runs.session",
    "StoreError": "cloned_proxy.store.files.errors",
    "TooManyRequestsError": "cloned_proxy.store.approvals.approval_errors",
    "ToolFailedError": "cloned_proxy.runner.values.errors",
    "ToolLimitError": "cloned_proxy.runner.values.errors",
    "ToolResult": "cloned_proxy.runner.runs.job",
    "ToolTimeoutError": "cloned_proxy.runner.values.errors",
    "Verdict": "cloned_proxy.policy.terms.vocabulary",
    "decide": "cloned_proxy.testing",
    "load_policy": "cloned_proxy.testing",
    "request_egress": "cloned_proxy.store.approvals.egress_request",
}

__all__ = [
    "Approval",
    "ApprovalError",
    "Decision",
    "DockerContainerRunner",
    "EgressBlockedError",
    "EgressRequest",
    "EngineError",
    "ExecResult",
    "Mount",
    "Policy",
    "PolicyError",
    "ProxyLinkError",
    "Reason",
    "RunCancelledError",
    "SafeFetch",
    "SandboxError",
    "SandboxInputError",
    "Session",
    "StoreError",
    "TooManyRequestsError",
    "ToolFailedError",
    "ToolLimitError",
    "ToolResult",
    "ToolTimeoutError",
    "Verdict",
    "__version__",
    "decide",
    "load_policy",
    "request_egress",
]


def __getattr__(name: str) -> Any:
    """Imports what is heavy (the engine's SDK, httpx, pydantic) when somebody asks for it, and not before."""
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
