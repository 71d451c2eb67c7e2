"""The audit log of a replica whose leases are counted over the fleet: a use is taken there first."""

from __future__ import annotations

from typing import Final

from cloned_proxy.fleet.leases.uses import Uses
from cloned_proxy.telemetry.events import AuditSink, DecisionEvent, Event


class CountedAudit:
    """An `AuditSink`."""

    def __init__(self, inner: AuditSink, uses: Uses) -> None:
        self._uses: Final = uses
        self._inner: Final = inner
        self.denied: Final = inner.denied
        self.record: Final = inner.record
        self.behind: Final = inner.behind
        self.caught_up: Final = inner.caught_up

    async def commit(self, event: Event, *, uses: int | None = None, owner: str | None = None) -> None:
        """As the log's own. Raises LeaseUsedUpError, UseNotCountedError too, and AuditUnavailableError."""
        if uses is None or not isinstance(event, DecisionEvent):
            await self._inner.commit(event, uses=uses, owner=owner)
            return
        async with self._uses.use(event.rule, uses):
            await self._inner.commit(event, uses=uses, owner=owner)
