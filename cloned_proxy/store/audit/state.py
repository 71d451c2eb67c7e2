"""What the running proxy keeps in state.db: the audit writer and the lease counts, opened and closed together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from cloned_proxy.store.audit.audit_log import AuditLog
from cloned_proxy.store.audit.audit_tail import AuditTail
from cloned_proxy.store.audit.audit_writer import AuditWriter
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.leases.deadline import uptime
from cloned_proxy.store.leases.lease_time import LeaseTimes
from cloned_proxy.store.leases.leases import LeaseLedger
from cloned_proxy.store.settings.config import AuditSettings


class State:
    """One for each serving process. Raises StoreError when state.db cannot be used."""

    def __init__(
        self,
        path: Path,
        settings: AuditSettings | None = None,
        *,
        clock: Callable[[], float] = time.time,
        uptime: Callable[[], float] = uptime,
        leads: bool = True,
        on_queue: Callable[[int], None] | None = None,
        on_size: Callable[[int], None] | None = None,
        tail: AuditTail | None = None,
    ) -> None:
        """One of several workers `leads`: it keeps what is left of leases.

        `on_queue` is told the length of the queue before and after each group is written, `on_size` the bytes of the
        log now and then, both on the writer's thread. `tail` gets what is committed.
        """
        settings = settings or AuditSettings()
        self._log = AuditLog(path)
        try:
            used, ends = self._log.lease_uses(), self._log.lease_ends()
        except StoreError:
            self._log.close()
            raise
        self.audit = AuditWriter(
            path,
            queue=settings.queue,
            retention_days=settings.retention_days,
            max_mib=settings.max_mib,
            clock=clock,
            on_queue=on_queue,
            on_size=on_size,
            tail=tail,
        )
        self._leads = leads
        self.leases = LeaseLedger(used, self.audit.forget, LeaseTimes(ends, clock=clock, uptime=uptime))

    async def follow_leases(self) -> None:
        """Learns what other processes know of leases; to be called each second. Raises StoreError."""
        if self.leases.watches:
            self.leases.learn(await asyncio.to_thread(self._log.lease_uses))
        times = self.leases.times
        if (ends := times.due()) is not None:
            times.learn(await asyncio.to_thread(self._log.lease_ends))
            if self._leads:
                await asyncio.to_thread(self._log.keep_lease_ends, ends)

    def close(self) -> None:
        """Writes what is queued and closes the database."""
        self.audit.close()
        self._log.close()
