"""What decides in a process: the policy that it follows, what is counted against it, and who is asked beyond it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cloned_proxy.proxy.enforce.asking import Asking
from cloned_proxy.proxy.enforce.follower import PolicyFollower
from cloned_proxy.proxy.grants.budget import Budgets
from cloned_proxy.proxy.grants.cells import CellStore, OwnCells, SharedCells
from cloned_proxy.proxy.grants.fair_share import fair_share
from cloned_proxy.proxy.plane.plane import Plane
from cloned_proxy.proxy.replica.fleet_limits import FleetLimits, open_fleet_limits
from cloned_proxy.proxy.serving.records import Records
from cloned_proxy.proxy.serving.setup import Setup
from cloned_proxy.proxy.upstream.resolver import Resolver
from cloned_proxy.store.approvals.approvals import ApprovalService
from cloned_proxy.store.audit.state import State

if TYPE_CHECKING:
    from cloned_proxy.fleet.members.build import Fleet


@dataclass(frozen=True, slots=True)
class Rules:
    resolver: Resolver
    fleet: Fleet | None
    follower: PolicyFollower
    cells: CellStore
    shared: FleetLimits
    """What is counted together with the replicas of the fleet."""
    budgets: Budgets
    flows_per_tool: int
    approvals: ApprovalService
    asking: Asking


def open_rules(setup: Setup, records: Records, plane: Plane | None) -> Rules:
    """Raises StoreError. Nothing is followed before `PolicyFollower.start`."""
    config, state = setup.config, records.state
    resolver = Resolver(config.proxy)
    setup.parts.callback(resolver.close)
    fleet = _join_fleet(setup, records)
    follower = PolicyFollower(
        setup.policy_file,
        presets=setup.workspace.presets,
        state=state,
        metrics=records.metrics,
        resolver=resolver,
        clock=setup.clock,
        leads=setup.leads,
        fleet=fleet.policy if fleet is not None else None,
    )
    cells = _cells(setup, plane, state)
    shared = open_fleet_limits(
        setup.parts,
        setup.workspace,
        config,
        records.link,
        records.metrics.registry,
        state=state,
        policies=follower.policies,
        cells=cells,
        worker=setup.worker,
    )
    budgets = Budgets(time.monotonic, cells, shared.shares)
    flows_per_tool = fair_share(config.proxy.max_connections)
    approvals = ApprovalService(setup.workspace, setup.policy_file, settings=config.approvals, clock=setup.clock)
    asking = Asking(
        approvals,
        config.approvals,
        policies=follower.policies,
        leases=state.leases,
        budgets=budgets,
        clock=setup.clock,
        flows_per_tool=flows_per_tool,
        leads=setup.leads,
    )
    setup.parts.callback(asking.close)
    return Rules(resolver, fleet, follower, cells, shared, budgets, flows_per_tool, approvals, asking)


def _join_fleet(setup: Setup, records: Records) -> Fleet | None:
    """The fleet of the settings; None where there is none. Raises StoreError."""
    if setup.config.fleet is None:
        return None
    from cloned_proxy.fleet.members.build import build  # noqa: PLC0415  optional libraries, and slow to import

    return build(
        setup.workspace,
        setup.config,
        setup.config.fleet,
        local_file=setup.policy_file,
        link=records.link,
        secrets=records.vault,
        registry=records.metrics.registry,
        clock=setup.clock,
        uptime=setup.uptime,
        worker=setup.worker.number if setup.worker is not None else 0,
    )


def _cells(setup: Setup, plane: Plane | None, state: State) -> CellStore:
    """Where everybody of this process counts, the plane too, whose entries go into the log."""
    if plane is not None:
        state.audit.join(plane.entries)
    if setup.worker is not None:
        return SharedCells(setup.worker.directory, own=setup.worker.number, workers=setup.worker.of)
    return plane.cells if plane is not None else OwnCells()
