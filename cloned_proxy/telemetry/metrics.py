"""The metrics of contract section 7, with label values that no caller can multiply."""

from __future__ import annotations

from collections.abc import Container

from prometheus_client import CollectorRegistry

from cloned_proxy.telemetry.events import DecisionEvent


class Metrics:
    """One for each process. Cheap enough for the hot path: label children are cached."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry

    def know_tools(self, tools: Container[str]) -> None:
        """The tools that the policy in force names; any other is `_unknown`, no tool is `_anonymous`."""
        raise NotImplementedError

    def decided(self, event: DecisionEvent, seconds: float) -> None:
        """One decision: `decisions_total`, `decision_duration_seconds`, and `blocked_hosts_total` for a denial."""
        raise NotImplementedError

    def upstream_connected(self, seconds: float) -> None:
        raise NotImplementedError

    def request_finished(self, kind: str, seconds: float) -> None:
        raise NotImplementedError

    def tunnel_opened(self, tool: str | None) -> None:
        raise NotImplementedError

    def tunnel_closed(self, tool: str | None) -> None:
        raise NotImplementedError

    def bytes_passed(self, tool: str | None, *, up: int, down: int) -> None:
        raise NotImplementedError

    def policy_loaded(self, *, rules: int, at: float) -> None:
        raise NotImplementedError

    def policy_rejected(self) -> None:
        raise NotImplementedError

    def audit_queue(self, length: int) -> None:
        raise NotImplementedError

    def audit_dropped(self) -> None:
        """An event that could not be recorded (its request was refused)."""
        raise NotImplementedError
