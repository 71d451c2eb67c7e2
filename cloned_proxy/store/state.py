"""What the running proxy keeps in state.db: the audit writer and the lease counts, opened and closed together."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from cloned_proxy.store.audit_log import AuditLog
from cloned_proxy.store.audit_writer import AuditWriter
from cloned_proxy.store.config import AuditSettings
from cloned_proxy.store.leases import LeaseLedger


class State:
    """One for each serving process. Raises StoreError when state.db cannot be used."""

    def __init__(
        self,
        path: Path,
        settings: AuditSettings | None = None,
        *,
        clock: Callable[[], float] = time.time,
        on_queue: Callable[[int], None] | None = None,
    ) -> None:
        """`on_queue` is told the length of the queue before each group is written, on the writer's thread."""
        settings = settings or AuditSettings()
        with AuditLog(path) as log:
            used = log.lease_uses()
        self.audit = AuditWriter(
            path, queue=settings.queue, retention_days=settings.retention_days, clock=clock, on_queue=on_queue
        )
        self.leases = LeaseLedger(used, self.audit.forget)

    def close(self) -> None:
        """Writes what is queued and closes the database."""
        self.audit.close()
