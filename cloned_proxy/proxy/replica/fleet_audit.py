"""The log in a fleet: receipts are given for it, and the store has its newest entries."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import CollectorRegistry

from cloned_proxy.store.audit.audit_tail import AuditTail
from cloned_proxy.store.settings.config import Config
from cloned_proxy.store.workspaces.workspace import Workspace

if TYPE_CHECKING:
    from cloned_proxy.fleet.link.link import Link

_LAST_SECONDS: Final = 3.0
"""For what is left to send at the stop; the rest goes out after the next start."""


async def open_fleet_audit(
    parts: AsyncExitStack,
    workspace: Workspace,
    config: Config,
    link: Link | None,
    registry: CollectorRegistry,
    *,
    clock: Callable[[], float],
) -> AuditTail | None:
    """Begins, and puts what ends it on `parts`: called before the log is opened, so that it ends behind the log.

    Returns what the log's writer is to fill, where the log is sent to the store. Raises StoreError.
    """
    fleet = config.fleet
    if fleet is None:
        return None
    from cloned_proxy.fleet.audit.audit_ship import AuditShipper  # noqa: PLC0415  optional, as all of them
    from cloned_proxy.fleet.audit.local_log import LocalLog  # noqa: PLC0415
    from cloned_proxy.fleet.audit.notary import Notary  # noqa: PLC0415
    from cloned_proxy.fleet.audit.receipt import own_key, own_name  # noqa: PLC0415
    from cloned_proxy.fleet.link.names import Names  # noqa: PLC0415
    from cloned_proxy.telemetry.shipping_metrics import ShippingMetrics  # noqa: PLC0415

    key = own_key(workspace)
    name = own_name(fleet, key)
    notary = Notary(workspace, name, clock=clock)
    work: list[Coroutine[Any, Any, None]] = [notary.work()]
    tail: AuditTail | None = None
    if link is not None and fleet.audit_entries:
        tail = AuditTail()
        local = LocalLog(workspace.state_db, tail)
        parts.push_async_callback(asyncio.to_thread, local.close)
        shipper = AuditShipper(
            local,
            link,
            Names(fleet.name),
            replica=name,
            key=key.public,
            keep=fleet.audit_entries,
            metrics=ShippingMetrics(registry),
            clock=clock,
        )
        work.append(shipper.work())
        parts.push_async_callback(_send_the_rest, shipper.ship)
    parts.push_async_callback(asyncio.to_thread, notary.sign)
    tasks = [asyncio.create_task(each) for each in work]
    parts.push_async_callback(_end, tasks)
    return tail


async def _send_the_rest(ship: Callable[[], Coroutine[Any, Any, bool]]) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LAST_SECONDS):
            await ship()


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
