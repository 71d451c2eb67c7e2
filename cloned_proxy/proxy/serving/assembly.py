"""The parts that decide and forward, put together in order: everything of a process but its listeners."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog
from prometheus_client import CollectorRegistry

from cloned_proxy.proxy.enforce.asking import Asking
from cloned_proxy.proxy.enforce.enforcer import Enforcer
from cloned_proxy.proxy.enforce.follower import PolicyFollower
from cloned_proxy.proxy.gate.gate import Gate
from cloned_proxy.proxy.grants.budget import Budgets
from cloned_proxy.proxy.grants.cells import CellStore, OwnCells, SharedCells
from cloned_proxy.proxy.grants.crowd import fair_share
from cloned_proxy.proxy.grants.denial_budget import DenialBudget
from cloned_proxy.proxy.grants.seat import Seat
from cloned_proxy.proxy.inspection.engine import MitmInspector
from cloned_proxy.proxy.inspection.registry.client import MetadataClient
from cloned_proxy.proxy.inspection.registry.examiner import RegistryExaminer
from cloned_proxy.proxy.own.own_view import OwnView
from cloned_proxy.proxy.own.requests_api import RequestsApi
from cloned_proxy.proxy.plane.choice import ONLY_PYTHON, PlaneChoice
from cloned_proxy.proxy.plane.plane import Plane, PlaneError
from cloned_proxy.proxy.replica.fleet_audit import open_fleet_audit
from cloned_proxy.proxy.replica.fleet_limits import begin, open_fleet_limits, open_fleet_requests, open_link
from cloned_proxy.proxy.replica.identities import open_identities
from cloned_proxy.proxy.secrets.injection import Injector
from cloned_proxy.proxy.secrets.leak import LeakWatch
from cloned_proxy.proxy.serving.pruning import LeasePruner
from cloned_proxy.proxy.transport.listener import OwnListeners
from cloned_proxy.proxy.upstream.chained.failure import Trouble
from cloned_proxy.proxy.upstream.chained.front import UpstreamProxy
from cloned_proxy.proxy.upstream.resolver import Resolver
from cloned_proxy.proxy.upstream.ways import Ways
from cloned_proxy.store.approvals.approvals import ApprovalService
from cloned_proxy.store.audit.audit_tail import AuditTail
from cloned_proxy.store.audit.state import State
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.settings.config import Config
from cloned_proxy.store.vault.live_vault import LiveVault
from cloned_proxy.store.vault.vault import Vault
from cloned_proxy.store.workspaces.workspace import Workspace
from cloned_proxy.telemetry.metrics import Metrics
from cloned_proxy.telemetry.upstream_metrics import UpstreamMetrics

if TYPE_CHECKING:
    from cloned_proxy.fleet.link.link import Link
    from cloned_proxy.fleet.members.build import Fleet

_log = structlog.get_logger(__name__)

_SWEEP_SECONDS: Final = 1.0
"""What time alone revokes is cut within a second (docs/policy.md#the-order-of-a-decision)."""


@dataclass(frozen=True, slots=True)
class Core:
    """The parts that decide and forward, before anything listens."""

    state: State
    follower: PolicyFollower
    gate: Gate
    own: OwnListeners
    metrics: Metrics
    plane: PlaneChoice
    fleet: Fleet | None = None


async def assemble(  # noqa: PLR0915  the composition root: one part after the other
    parts: AsyncExitStack,
    workspace: Workspace,
    config: Config,
    policy_file: Path,
    *,
    clock: Callable[[], float],
    uptime: Callable[[], float],
    seat: Seat | None,
    chosen: PlaneChoice = ONLY_PYTHON,
) -> Core:
    """Puts the parts together, with what takes them apart on `parts`. Raises StoreError and PolicyError.

    `chosen` says whether the native plane serves in front.
    """
    leads = seat is None or seat.leads
    plane, chosen = _open_plane(parts, config, chosen)
    metrics = Metrics(CollectorRegistry(), shared=seat is not None, plane=chosen.plane)
    vault = LiveVault(Vault(workspace, config.vault.key), os.environ)
    await asyncio.to_thread(vault.open)
    link = open_link(parts, workspace, config, vault)
    tail = await _send_log(parts, workspace, config, vault, metrics, link=link, clock=clock) if leads else None
    tokens = await open_identities(parts, workspace, config, vault, metrics.registry, clock=clock)
    state = State(
        workspace.state_db,
        config.audit,
        clock=clock,
        uptime=uptime,
        leads=leads,
        on_queue=metrics.audit_queue,
        on_size=metrics.audit_log_bytes,
        tail=tail,
    )
    parts.push_async_callback(asyncio.to_thread, state.close)
    resolver = Resolver(config.proxy)
    parts.callback(resolver.close)
    fleet = _join_fleet(workspace, config, policy_file, link, vault, metrics, clock, uptime, seat)
    follower = PolicyFollower(
        policy_file,
        presets=workspace.presets,
        state=state,
        metrics=metrics,
        resolver=resolver,
        clock=clock,
        leads=leads,
        fleet=fleet.policy if fleet is not None else None,
    )
    cells = _cells(seat, plane, state)
    own = OwnListeners()
    shared = open_fleet_limits(
        parts,
        workspace,
        config,
        link,
        metrics.registry,
        state=state,
        policies=follower.policies,
        cells=cells,
        seat=seat,
    )
    budgets = Budgets(time.monotonic, cells, shared.shares)
    share = fair_share(config.proxy.max_connections)
    approvals = ApprovalService(workspace, policy_file, settings=config.approvals, clock=clock)
    asking = Asking(
        approvals,
        config.approvals,
        policies=follower.policies,
        leases=state.leases,
        budgets=budgets,
        clock=clock,
        flows_per_tool=share,
        leads=leads,
    )
    parts.callback(asking.close)
    upstream = None
    if config.upstream.wanted:
        upstream = UpstreamProxy(
            config.upstream, config.proxy, resolver=resolver, secrets=vault, own=own, base=workspace.root
        )
        parts.callback(upstream.close)
    ways = _ways(upstream, config, metrics)
    enforcer = Enforcer(
        policies=follower.policies,
        resolver=resolver,
        budgets=budgets,
        leases=state.leases,
        audit=shared.audit,
        metrics=metrics,
        own_listeners=own,
        clock=clock,
        strict_durability=config.audit.durability == "strict",
        flows_per_tool=share,
        asking=asking,
        names=upstream,
        denials=DenialBudget(time.monotonic, cells, per_minute=config.audit.denials_per_minute),
    )
    injector = Injector(vault)
    leaks = LeakWatch(follower.policies)
    leaks.load(vault.watched())
    inspector = MitmInspector(
        enforcer=enforcer,
        injector=injector,
        leaks=leaks,
        settings=config.proxy,
        metrics=metrics,
        ca_directory=workspace.ca_directory,
        examiners=(RegistryExaminer(enforcer, injector, MetadataClient(config.proxy, ways), clock=clock),),
        ways=ways,
    )
    parts.push_async_callback(inspector.close)
    gate = Gate(
        enforcer=enforcer,
        tokens=tokens,
        settings=config.proxy,
        metrics=metrics,
        inspector=inspector,
        injector=injector,
        leaks=leaks,
        clock=clock,
        cells=cells,
        ways=ways,
        requests=RequestsApi(
            approvals,
            asking,
            policies=follower.policies,
            audit=state.audit,
            view=OwnView(workspace.state_db, clock),
            clock=clock,
        ),
        plane=plane,
    )

    def sweep() -> None:
        gate.sweep()
        inspector.sweep()

    async def sweep_by_time() -> None:
        state.leases.times.look()
        leaks.load(vault.watched())  # before the sweep, which takes back what is not to go unsearched
        sweep()
        metrics.leases.review(clock())

    await follower.start(sweep)
    parts.push_async_callback(follower.stop)
    run = open_fleet_requests(shared, workspace, config, follower=follower, clock=clock, uptime=uptime, leads=leads)
    if fleet is not None:
        if fleet.member is not None:
            fleet.member.tunnels = lambda: len(gate.tunnels)
        await fleet.start(parts)  # and with it the link, which everybody follows by now
    begin(parts, shared, run)
    # Several tasks: a database that hangs must not keep tunnels open.
    tasks = [_each_second(sweep_by_time), _each_second(state.follow_leases), asking.follow()]
    if fleet is None and leads:
        tasks.append(LeasePruner(workspace, policy_file, policies=follower.live, clock=clock).run())
    if upstream is not None:
        tasks.append(upstream.look_ahead())
    _keep_running(parts, tasks)
    return Core(state, follower, gate, own, metrics, chosen, fleet)


def _join_fleet(  # noqa: PLR0917  what it passes on
    workspace: Workspace,
    config: Config,
    policy_file: Path,
    link: Link | None,
    vault: LiveVault,
    metrics: Metrics,
    clock: Callable[[], float],
    uptime: Callable[[], float],
    seat: Seat | None,
) -> Fleet | None:
    """The fleet of the settings; None where there is none. Raises StoreError."""
    if config.fleet is None:
        return None
    from cloned_proxy.fleet.members.build import build  # noqa: PLC0415  optional libraries, and slow to import

    return build(
        workspace,
        config,
        config.fleet,
        local_file=policy_file,
        link=link,
        secrets=vault,
        registry=metrics.registry,
        clock=clock,
        uptime=uptime,
        worker=seat.number if seat is not None else 0,
    )


def _cells(seat: Seat | None, plane: Plane | None, state: State) -> CellStore:
    """Where everybody of this process counts, the plane too, whose entries go into the log."""
    if plane is not None:
        state.audit.join(plane.entries)
    if seat is not None:
        return SharedCells(seat.directory, own=seat.number, workers=seat.of)
    return plane.cells if plane is not None else OwnCells()


def _open_plane(parts: AsyncExitStack, config: Config, chosen: PlaneChoice) -> tuple[Plane | None, PlaneChoice]:
    """What was chosen, or Python where that cannot be started. Raises StoreError where it is required."""
    if chosen.library is None:
        return None, chosen
    try:
        plane = Plane(chosen.library, config.proxy, threads=chosen.threads, queue=config.audit.queue)
    except PlaneError as error:
        return None, chosen.without(str(error))
    parts.callback(plane.free)  # behind the log, which writes what the plane has left
    return plane, chosen


def _ways(upstream: UpstreamProxy | None, config: Config, metrics: Metrics) -> Ways:
    if upstream is None:
        return Ways(connect_timeout=config.proxy.connect_timeout)
    failures = UpstreamMetrics(metrics.registry, Trouble)
    _log.info(
        "an upstream proxy is in front",
        proxy=config.upstream.proxy or config.upstream.pac,
        resolve=config.upstream.resolve,
    )
    return Ways(upstream, connect_timeout=config.proxy.connect_timeout, on_trouble=failures.failed)


async def _send_log(
    parts: AsyncExitStack,
    workspace: Workspace,
    config: Config,
    vault: LiveVault,
    metrics: Metrics,
    *,
    link: Link | None,
    clock: Callable[[], float],
) -> AuditTail | None:
    """To whoever else is to have the log. Taken apart after the log is closed: then it has all there is to send.

    Returns where it wants to be handed what is committed.
    """
    if config.telemetry.otlp_endpoint is not None:
        parts.push_async_callback(asyncio.to_thread, _start_export(workspace, config, vault, metrics))
    return await open_fleet_audit(parts, workspace, config, link, metrics.registry, clock=clock)


def _start_export(workspace: Workspace, config: Config, vault: LiveVault, metrics: Metrics) -> Callable[[], None]:
    """Exports the log from now on; returns what ends it. Raises StoreError without the extra."""
    try:
        from cloned_proxy.store.audit.otlp_export import OtlpExport  # noqa: PLC0415  optional, and half a second to import
        from cloned_proxy.store.settings.upstream_client import proxy_for  # noqa: PLC0415  with it
    except ModuleNotFoundError as error:
        raise StoreError(f"telemetry.otlp_endpoint needs {error.name}: pip install 'cloned-proxy[otlp]'") from error
    endpoint = config.telemetry.otlp_endpoint or ""
    ahead = partial(proxy_for, endpoint, config.upstream, vault.value_of, workspace.root)
    export = OtlpExport(workspace.root, workspace.state_db, endpoint, metrics.registry, ahead)
    export.start()
    return export.close


async def _each_second(work: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(_SWEEP_SECONDS)
        try:
            await work()
        except Exception:  # noqa: BLE001  revocation by time must outlive one fault
            _log.exception("a sweep failed; the next one follows in a second")


def _keep_running(parts: AsyncExitStack, tasks: Iterable[Coroutine[Any, Any, None]]) -> None:
    for task in tasks:
        parts.push_async_callback(_end, asyncio.create_task(task))


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
