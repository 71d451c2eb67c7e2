"""An event, and a log that is filled with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cloned_proxy.store.audit.audit_log import AuditLog
from cloned_proxy.telemetry.events import DecisionEvent, Kind

EVENT = DecisionEvent(
    id="d1", at=1000.0, kind=Kind.TUNNEL, verdict="allow", reason="allowed", tool="demo@v1", run=None,
    host="a.test", port=443, method="CONNECT", path="", rule="r-1", policy="abc", hint="",
)  # fmt: skip


def fill(path: Path, count: int) -> None:
    with AuditLog(path) as log:
        for number in range(count):
            log.append(replace(EVENT, id=f"d{number}", at=1000.0 + number))
