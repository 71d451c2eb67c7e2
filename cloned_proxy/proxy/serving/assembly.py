"""The parts that decide and forward, put together in order: everything of a process but its listeners."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import structlog

from cloned_proxy.proxy.enforce.follower import PolicyFollower
from cloned_proxy.proxy.gate.gate import Gate
from cloned_proxy.proxy.plane.choice import ONLY_PYTHON, PlaneChoice
from cloned_proxy.proxy.plane.plane import Plane, PlaneError
from cloned_proxy.proxy.replica.fleet_limits import begin, open_fleet_requests
from cloned_proxy.proxy.serving.forwarding import Forwarding, open_forwarding
from cloned_proxy.proxy.serving.pruning import LeasePruner
from cloned_proxy.proxy.serving.records import Records, open_records
from cloned_proxy.proxy.serving.rules import Rules, open_rules
from cloned_proxy.proxy.serving.setup import Setup
from cloned_proxy.proxy.transport.listener import OwnListeners
from cloned_proxy.store.audit.state import State
from cloned_proxy.telemetry.metrics import Metrics

if TYPE_CHECKING:
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


async def assemble(setup: Setup, *, chosen: PlaneChoice = ONLY_PYTHON) -> Core:
    """Puts the parts together, with what takes them apart on `setup.parts`. Raises StoreError and PolicyError.

    `chosen` says whether the native plane serves in front.
    """
    plane, chosen = _open_plane(setup, chosen)
    records = await open_records(setup, plane=chosen.plane)
    rules = open_rules(setup, records, plane)
    forwarding = open_forwarding(setup, records, rules, plane)
    await _follow(setup, rules, forwarding)
    _keep_running(setup.parts, _by_time(setup, records, rules, forwarding))
    return Core(records.state, rules.follower, forwarding.gate, forwarding.own, records.metrics, chosen, rules.fleet)


def _open_plane(setup: Setup, chosen: PlaneChoice) -> tuple[Plane | None, PlaneChoice]:
    """What was chosen, or Python where that cannot be started. Raises StoreError where it is required."""
    if chosen.library is None:
        return None, chosen
    config = setup.config
    try:
        plane = Plane(chosen.library, config.proxy, threads=chosen.threads, queue=config.audit.queue)
    except PlaneError as error:
        return None, chosen.without(str(error))
    setup.parts.callback(plane.free)  # behind the log, which writes what the plane has left
    return plane, chosen


async def _follow(setup: Setup, rules: Rules, forwarding: Forwarding) -> None:
    """From here on the policy is followed, and in a fleet what the others say."""
    await rules.follower.start(forwarding.sweep)
    setup.parts.push_async_callback(rules.follower.stop)
    run = open_fleet_requests(
        rules.shared,
        setup.workspace,
        setup.config,
        follower=rules.follower,
        clock=setup.clock,
        uptime=setup.uptime,
        leads=setup.leads,
    )
    if rules.fleet is not None:
        if rules.fleet.member is not None:
            rules.fleet.member.tunnels = lambda: len(forwarding.gate.tunnels)
        await rules.fleet.start(setup.parts)  # and with it the link, which everybody follows by now
    begin(setup.parts, rules.shared, run)


def _by_time(
    setup: Setup, records: Records, rules: Rules, forwarding: Forwarding
) -> Iterable[Coroutine[Any, Any, None]]:
    """What runs beside traffic. Several tasks: a database that hangs must not keep tunnels open."""

    async def sweep() -> None:
        records.state.leases.times.look()
        # Before the sweep, which takes back what is not to go unsearched.
        forwarding.leaks.load(records.vault.watched())
        forwarding.sweep()
        records.metrics.leases.review(setup.clock())

    yield _each_second(sweep)
    yield _each_second(records.state.follow_leases)
    yield rules.asking.follow()
    if rules.fleet is None and setup.leads:
        pruner = LeasePruner(setup.workspace, setup.policy_file, policies=rules.follower.live, clock=setup.clock)
        yield pruner.run()
    if forwarding.upstream is not None:
        yield forwarding.upstream.look_ahead()


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
