"""A store that is not what it was: together replicas never pass more than the limit, judged by a canary."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from cloned_proxy.fleet.shares import share_script
from cloned_proxy.policy.model.model import Limits, Policy, Scope
from cloned_proxy.policy.reading.narrow import narrowed
from cloned_proxy.policy.terms.vocabulary import Mode
from cloned_proxy.proxy.replica import shares as shares_module
from tests.fleet.conftest import RedisServer
from tests.fleet.counting import TOOL, Canary, Replica, policy, serving, until
from tests.fleet.shares.test_shares import NAMES, confirmed, drain, settled, until_passed

LIMIT = 40
SETTLES = 60_000
"""Milliseconds, so that no slow machine is late: the tests say when it is over."""

REFUSALS = 40


@pytest.fixture
def canary() -> Iterator[Canary]:
    with Canary() as counting:
        yield counting


def replicas(store_url: str, canary: Canary, tmp_path: Path, *names: str) -> list[Replica]:
    current = policy(canary.port, limits=Limits(requests_per_minute=LIMIT))
    return [Replica(name, store_url, tmp_path / name, current, settle=SETTLES) for name in names]


async def spend(replica: Replica, canary: Canary, *, broken: bool) -> None:
    """As much as it gets: over the limit in a broken build; in ours it is refused for longer than it waits to ask."""
    refused = 0
    async with asyncio.timeout(60):
        while len(canary.arrivals) <= LIMIT and (broken or refused < REFUSALS):
            if await replica.call() != "allowed":
                refused += 1
                await asyncio.sleep(0.02)


def break_script(monkeypatch: pytest.MonkeyPatch, guard: str, without: str) -> None:
    assert guard in share_script.SHARE
    monkeypatch.setattr(shares_module, "SHARE", share_script.SHARE.replace(guard, without))


@pytest.mark.parametrize("broken", [False, True])
async def test_a_store_that_restarts_from_its_own_older_snapshot(
    store: RedisServer, canary: Canary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, broken: bool
) -> None:
    """What it knows is of before a replica spent most of the limit, and died."""
    if broken:
        break_script(monkeypatch, "server[1] ~= run or not known", "not known")
    alive, dead = replicas(store.url, canary, tmp_path, "alive", "dead")
    async with serving(alive):
        await alive.call()
        settled(store)
        with store.client() as client:
            client.save()
        async with serving(dead):
            await until_passed(dead, 30)
        store.restart()
        await until(lambda: alive.link.connected)
        await until(lambda: alive.shares._shares[TOOL].told)
        settled(store)
        await spend(alive, canary, broken=broken)
    assert (len(canary.arrivals) > LIMIT) is broken


@pytest.mark.parametrize("broken", [False, True])
async def test_two_stores_that_take_turns(  # noqa: PLR0917  fixtures
    store: RedisServer,
    redis_directory: Path,
    canary: Canary,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    *,
    broken: bool,
) -> None:
    """An address that goes from one server to another, and back: each turn is a loss, not the first one alone."""
    if broken:
        break_script(monkeypatch, "or not known or", "or (not known and not lost) or")
    place = redis_directory / f"turns{broken:d}"
    place.mkdir()
    two, address = RedisServer(place), place / "address"
    request.addfinalizer(two.kill)
    two.start()
    servers = [store, two]

    def turn(server: RedisServer) -> None:
        address.unlink(missing_ok=True)
        address.symlink_to(server.socket)
        for each in servers:
            with each.client() as client:
                client.client_kill_filter(_type="normal", skipme=True)
                client.client_kill_filter(_type="pubsub")

    one = store
    turn(one)
    alive, dead = replicas(f"unix://{address}", canary, tmp_path, "alive", "dead")
    async with serving(alive):
        await alive.call()
        settled(one)
        await until_passed(alive, 1)
        for server in (two, one):
            turn(server)
            with server.client() as client:
                # Each of them hears of the loss, and that is long ago then.
                await until(lambda client=client: client.hget(NAMES.server, "lost") == b"1")  # type: ignore[misc]
                await confirmed(server, alive)
                client.hincrby(NAMES.server, "settled", -SETTLES - 70_000)
        async with serving(dead):
            await until_passed(dead, 30)
        with two.client() as client:
            before = client.hget(NAMES.shares(TOOL), "alive")
            turn(two)
            await until(lambda: client.hget(NAMES.shares(TOOL), "alive") != before)
        if not broken:
            settled(two)
        await spend(alive, canary, broken=broken)
    assert (len(canary.arrivals) > LIMIT) is broken


def narrow(current: Policy | None, requests: int) -> Policy:
    assert current is not None
    scope = Scope(allow=current.tools[TOOL].allow, limits=Limits(requests_per_minute=requests))
    return narrowed(current, Policy("local", Mode.ENFORCE, tools=MappingProxyType({TOOL: scope})))


@pytest.mark.parametrize("broken", [False, True])
async def test_a_replica_whose_own_limit_is_lower_gets_its_part_of_what_is_left(
    store: RedisServer, canary: Canary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, broken: bool
) -> None:
    """More than its own limit is used elsewhere, and the fleet has more. The broken build shares out the lower one."""
    if broken:
        monkeypatch.setattr(shares_module.Shares, "_whole", own_alone)
    high, low = replicas(store.url, canary, tmp_path, "high", "low")
    for each in (high, low):
        each.shares._settle = 0
    low.policies.current = narrow(high.policies.current, 5)
    async with serving(high, low):
        await until_passed(high, 20)
        if broken:
            assert await drain([low], 3) == {"limit_exceeded": 3}
        else:
            await until_passed(low, 5)
            assert await drain([low], 3) == {"limit_exceeded": 3}
    assert len(canary.arrivals) == (20 if broken else 25)


def own_alone(self: Any, tool: str) -> tuple[int | None, ...]:
    """The limits as they were narrowed."""
    limits = self._shared(tool)
    return limits.requests_per_minute, limits.bytes_per_hour, limits.concurrent


@pytest.mark.parametrize("broken", [False, True])
async def test_a_lower_limit_that_asks_first_after_a_loss_opens_nothing_to_the_others(
    store: RedisServer, canary: Canary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, broken: bool
) -> None:
    """Most of it was spent by a replica that is gone, and the first one that asks knows of its own share alone."""
    if broken:
        break_script(monkeypatch, "math.min(limit[d], confirmed.has[d])", "limit[d]")
    low, alive, dead = replicas(store.url, canary, tmp_path, "low", "alive", "dead")
    low.policies.current = narrow(alive.policies.current, 5)
    async with serving(low, alive):
        await low.call()
        await alive.call()
        settled(store)
        await until_passed(low, 1)
        await until_passed(alive, 1)
        async with serving(dead):
            await until_passed(dead, 30)
        with store.client() as client:
            client.flushall()
        await confirmed(store, low, alive)
        share = alive.shares._shares[TOOL]
        share.dry_until = float("inf")  # so that it does not ask before the other one
        settled(store)
        with store.client() as client:
            # A question that was under way answers as well, and may have been asked before the store had settled.
            while not client.hexists(NAMES.shares(TOOL), ":confirmed"):
                await low.shares.more(TOOL)
        share.dry_until = 0.0
        await spend(alive, canary, broken=broken)
    assert (len(canary.arrivals) > LIMIT) is broken


@pytest.mark.parametrize("broken", [False, True])
async def test_a_wall_clock_of_the_store_that_is_set_forward(
    store: RedisServer, canary: Canary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, broken: bool
) -> None:
    """As the script sees it: what the clock said at the last call is an hour ago."""
    if broken:
        step = "math.max(0, math.min(wall - kept[2], 3000))"
        break_script(monkeypatch, step, "wall - kept[2]")
    alive, dead = replicas(store.url, canary, tmp_path, "alive", "dead")
    async with serving(alive):
        await alive.call()
        settled(store)
        async with serving(dead):
            await until_passed(dead, 30)
        alive.shares._loss._looked = float("inf")  # the next call is of the script
        with store.client() as client:
            client.hincrby(NAMES.server, "wall", -3_600_000)
        await spend(alive, canary, broken=broken)
    assert (len(canary.arrivals) > LIMIT) is broken


async def test_a_clock_that_is_set_back_stands_still(store: RedisServer, canary: Canary, tmp_path: Path) -> None:
    [alive] = replicas(store.url, canary, tmp_path, "alive")
    async with serving(alive):
        await alive.call()
        with store.client() as client:
            client.hset(NAMES.server, mapping={"wall": 10**15, "clock": 5})
            await until(lambda: int(client.hget(NAMES.server, "wall")) < 10**15)
            assert 5 <= int(client.hget(NAMES.server, "clock")) < 60_000


def test_limits_before_they_were_narrowed_are_known() -> None:
    current = replace(policy(443, limits=Limits(requests_per_minute=100)), version="v2")
    assert narrow(current, 5).limits_before[TOOL] == Limits(requests_per_minute=100)
    assert narrow(current, 5).scope_of(TOOL).limits == Limits(requests_per_minute=5)
