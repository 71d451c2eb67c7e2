"""What the serving process puts on record of sandboxes: how runs ended, and what the escape probe found."""

from __future__ import annotations

from typing import Protocol

import structlog

from cloned_proxy.telemetry.events import AuditUnavailableError, Event, ProbeEvent, RunEvent
from cloned_proxy.telemetry.metrics import Metrics

_log = structlog.get_logger(__name__)


class RunAudit(Protocol):
    """The one method of `AuditSink` that is needed here."""

    def record(self, event: Event) -> None: ...


class SandboxRecord:
    """Both places at once. Never raises: nothing waits for these events that could still be refused."""

    def __init__(self, audit: RunAudit, metrics: Metrics) -> None:
        self._audit = audit
        self._metrics = metrics

    def ran(self, event: RunEvent) -> None:
        """A run ended."""
        self._metrics.sandbox.finished(event.tool, event.result, event.start_seconds)
        self._record(event)

    def probed(self, event: ProbeEvent) -> None:
        """A probe ended."""
        self._metrics.sandbox.probed(sealed=event.sealed)
        self._record(event)

    def _record(self, event: RunEvent | ProbeEvent) -> None:
        try:
            self._audit.record(event)
        except AuditUnavailableError as error:
            self._metrics.audit_dropped()
            _log.error("the end of a run or of a probe is not on record", reason=str(error))
