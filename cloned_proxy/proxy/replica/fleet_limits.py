"""What a replica of a fleet counts together with the others: limits by shares, uses of exact leases one by one."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import CollectorRegistry

from cloned_proxy.policy.terms.rule import Rule
from cloned_proxy.proxy.enforce.follower import PolicyFollower
from cloned_proxy.proxy.enforce.question import PolicySource
from cloned_proxy.proxy.grants.budget import WholeLimits
from cloned_proxy.proxy.grants.cells import CellStore
from cloned_proxy.proxy.grants.workers import Worker, leads
from cloned_proxy.store.audit.audit_log import AuditLog
from cloned_proxy.store.audit.state import State
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.settings.config import Config
from cloned_proxy.store.vault.live_vault import LiveVault
from cloned_proxy.store.workspaces.workspace import Workspace
from cloned_proxy.telemetry.events import AuditSink

if TYPE_CHECKING:  # imported where a fleet is set up, and nowhere else
    from cloned_proxy.fleet.leases.uses import Uses
    from cloned_proxy.fleet.link.link import Link
    from cloned_proxy.telemetry.share_metrics import ShareMetrics

_LAST_SECONDS: Final = 3.0
"""Seconds in which shares are given back at the stop. What is not given back comes back by itself, later."""


@dataclass(frozen=True, slots=True)
class FleetLimits:
    """For `Budgets` and the enforcer. Outside of a fleet with a store: the limits are whole, and the log is the log."""

    shares: WholeLimits
    audit: AuditSink
    link: Link | None = None
    metrics: ShareMetrics | None = None
    replica: str = ""
    uses: Uses | None = None


def open_fleet_limits(
    parts: AsyncExitStack,
    workspace: Workspace,
    config: Config,
    link: Link | None,
    registry: CollectorRegistry,
    *,
    state: State,
    policies: PolicySource,
    cells: CellStore,
    worker: Worker | None,
) -> FleetLimits:
    """Puts them together, with what ends them on `parts`, before the link is started. Raises StoreError."""
    fleet = config.fleet
    if fleet is None or link is None:
        return FleetLimits(WholeLimits(), state.audit)
    from cloned_proxy.fleet.leases.counted_audit import CountedAudit  # noqa: PLC0415  optional, as all that follow
    from cloned_proxy.fleet.leases.uses import Uses  # noqa: PLC0415
    from cloned_proxy.fleet.members.member import replica_key, replica_name  # noqa: PLC0415
    from cloned_proxy.fleet.signed.envelope import Trust  # noqa: PLC0415
    from cloned_proxy.proxy.replica.shares import Shares  # noqa: PLC0415
    from cloned_proxy.telemetry.share_metrics import ShareMetrics  # noqa: PLC0415

    name = replica_name(fleet, replica_key(workspace))
    metrics = ShareMetrics(registry)
    shares = Shares(
        link,
        fleet.name,
        name,
        process=secrets.token_hex(8) if worker is None else worker.directory.name,
        on_store_loss=fleet.on_store_loss,
        policies=policies,
        store=cells,
        metrics=metrics,
        leads=leads(worker),
        alone=worker is None,
    )
    uses = Uses(
        link,
        fleet.name,
        name,
        memory=workspace.root / "fleet" / "uses.json",
        trust=Trust(dict.fromkeys((*fleet.trust, *fleet.approvers))),
        taken_here=lambda: _taken_here(workspace),
        acknowledged_by=fleet.acknowledged_by,
        on_outcome=metrics.use,
    )
    link.at_connect(uses.join)
    if leads(worker):  # behind the last flow, and before the link goes
        parts.push_async_callback(_within, shares.close)
    return FleetLimits(shares, CountedAudit(state.audit, uses), link, metrics, name, uses)


def open_fleet_requests(
    limits: FleetLimits,
    workspace: Workspace,
    config: Config,
    *,
    follower: PolicyFollower,
    clock: Callable[[], float],
    uptime: Callable[[], float],
    leads: bool,
) -> Callable[[], Coroutine[Any, Any, None]]:
    """The requests of the fleet, and what was granted in it beside the policy; returns what runs beside traffic."""
    fleet = config.fleet
    if fleet is None or limits.link is None or limits.metrics is None or limits.uses is None:
        return limits.shares.run
    from cloned_proxy.fleet.approvals.requests import FleetRequests  # noqa: PLC0415
    from cloned_proxy.fleet.signed.envelope import Trust  # noqa: PLC0415  optional, as above
    from cloned_proxy.store.approvals.approval_mirror import ApprovalMirror  # noqa: PLC0415

    metrics, uses = limits.metrics, limits.uses

    def changed(rules: tuple[Rule, ...]) -> None:
        metrics.grants(len(rules))
        follower.grant(rules)

    requests = FleetRequests(
        limits.link,
        fleet.name,
        limits.replica,
        trust=Trust(dict.fromkeys((*fleet.trust, *fleet.approvers))),
        mirror=ApprovalMirror(workspace.state_db, clock=clock, uptime=uptime),
        on_change=changed,
        on_decision=lambda decision: metrics.decided(decision.replica, decision.verdict),
        clock=clock,
        uptime=uptime,
        leads=leads,
    )

    async def run() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(limits.shares.run())
            tasks.create_task(requests.run())
            tasks.create_task(uses.run())

    return run


def open_link(parts: AsyncExitStack, workspace: Workspace, config: Config, vault: LiveVault) -> Link | None:
    """The one way of this process to the store of the fleet, closed by `parts`; None without a store.

    Raises StoreError, for a missing library too.
    """
    if config.fleet is None:
        return None
    from cloned_proxy.fleet.link.libraries import need_libraries  # noqa: PLC0415  optional, and slow to import

    need_libraries()
    if config.fleet.store is None:
        return None
    from cloned_proxy.fleet.link.link import Link  # noqa: PLC0415  with them

    link = Link(config.fleet, base=workspace.root, secrets=vault)
    parts.push_async_callback(link.close)
    return link


def begin(parts: AsyncExitStack, limits: FleetLimits, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Starts what runs beside traffic, once everything follows the link that wants to."""
    if limits.link is None:
        return
    task = asyncio.create_task(run())
    parts.push_async_callback(_end, task)


def _taken_here(workspace: Workspace) -> dict[str, int]:
    with AuditLog(workspace.state_db) as log:
        return log.lease_uses()


async def _within(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with contextlib.suppress(TimeoutError, StoreError):
        async with asyncio.timeout(_LAST_SECONDS):
            await work()


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
