"""What the serving process puts on record of sandboxes: how runs ended, and what the escape probe found."""

from __future__ import annotations

from typing import Protocol

import structlog

from cloned_proxy.telemetry.events import AuditUnavailableError, Event, ProbeEvent, RunEvent

_log = structlog.get_logger(__name__)


class RunAudit(Protocol):
    """The one method of `AuditSink` that is needed here."""

    def record(self, event: Event) -> None: ...


class SandboxMetrics(Protocol):
    """What of the metrics is about sandboxes."""

    def sandbox_finished(self, tool: str, result: str, start_seconds: float | None) -> None: ...

    def isolation_probed(self, *, sealed: bool) -> None: ...

    def audit_dropped(self) -> None: ...


class SandboxRecord:
    """Both places at once. Never raises: nothing waits for these events that could still be refused."""

    def __init__(self, audit: RunAudit, metrics: SandboxMetrics) -> None:
        self._audit = audit
        self._metrics = metrics

    def ran(self, event: RunEvent) -> None:
        """A run ended."""
        self._metrics.sandbox_finished(event.tool, event.result, event.start_seconds)
        self._record(event)

    def probed(self, event: ProbeEvent) -> None:
        """A probe ended."""
        self._metrics.isolation_probed(sealed=event.sealed)
        self._record(event)

    def _record(self, event: RunEvent | ProbeEvent) -> None:
        try:
            self._audit.record(event)
        except AuditUnavailableError as error:
            self._metrics.audit_dropped()
            _log.error("the end of a run or of a probe is not on record", reason=str(error))
