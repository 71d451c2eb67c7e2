"""Faults of stores, disks and clocks, and old news; in builds without the guard they do what they must not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloned_proxy.fleet.approvals.in_force import ApprovalsInForce
from cloned_proxy.fleet.approvals.requests import FleetRequests
from cloned_proxy.fleet.leases.counted_audit import CountedAudit
from cloned_proxy.fleet.signed.envelope import Trust
from cloned_proxy.fleet.signed.keys import SigningKey
from cloned_proxy.fleet.signed_policy import kept
from cloned_proxy.fleet.signed_policy.kept import Kept
from cloned_proxy.fleet.signed_policy.last_heard import LastHeard
from cloned_proxy.fleet.signed_policy.replica import FleetPolicy
from cloned_proxy.policy.model.model import Limits
from cloned_proxy.proxy.replica import shares as shares_module
from cloned_proxy.store.files.errors import StoreError
from tests.fleet.approvals.desk import APPROVER, DECISION, FLEET, TRUST
from tests.fleet.conftest import RedisServer
from tests.fleet.counting import Canary, policy, serving, until
from tests.fleet.counting import Replica as Counting
from tests.fleet.replicas import Replica, policy_for, put_into
from tests.fleet.test_broken_limits import Telling

KEY = SigningKey.generate()
TEN_MINUTES = 600.0

type Start = Callable[..., Awaitable[Replica]]


@pytest.fixture
async def start(tmp_path: Path, store: RedisServer) -> AsyncIterator[Start]:
    begun: list[Replica] = []

    async def make(**settings: Any) -> Replica:
        begun.append(Replica(tmp_path / "a", **{"store": store.url, "trust": [KEY.public], "poll": "1s", **settings}))
        return await begun[-1].start()

    yield make
    for each in begun:
        await each.stop()


@pytest.fixture
def canary() -> Iterator[Canary]:
    with Canary() as counting:
        yield counting


@pytest.mark.parametrize("broken", [False, True])
async def test_an_older_policy_that_is_offered_again_before_and_after_a_restart(
    start: Start, store: RedisServer, monkeypatch: pytest.MonkeyPatch, *, broken: bool
) -> None:
    put_into(store, policy_for("old.example"), 1, KEY)
    one = await start()
    await one.until_version(1)
    put_into(store, policy_for("new.example"), 2, KEY)
    await one.until_version(2)
    if broken:
        monkeypatch.setattr(Kept, "check", lambda _self, _statement: None)
    put_into(store, policy_for("old.example"), 1, KEY)
    await offered(one, broken=broken)
    await one.stop()
    await offered(await start(), broken=broken)


async def offered(replica: Replica, *, broken: bool) -> None:
    if broken:
        await replica.until(lambda: replica.allows("old.example"))
    else:
        await replica.until_refused("rollback")
        assert not replica.allows("old.example")


@pytest.mark.parametrize("broken", [False, True])
async def test_a_policy_that_is_signed_with_the_key_of_a_replica(
    start: Start, store: RedisServer, monkeypatch: pytest.MonkeyPatch, *, broken: bool
) -> None:
    """Who takes over one host has it, and with it no other."""
    one = await start()
    assert one.fleet is not None
    if broken:
        monkeypatch.setattr(one.policy, "trust", Trust([KEY.public, one.fleet.key.public]))
    put_into(store, policy_for("evil.example"), 1, one.fleet.key)
    if broken:
        await one.until(lambda: one.allows("evil.example"))
    else:
        await one.until_refused("signature")
        assert not one.allows("evil.example")


@pytest.mark.parametrize("broken", [False, True])
async def test_a_store_that_says_nothing_for_longer_than_may_be(
    start: Start, store: RedisServer, monkeypatch: pytest.MonkeyPatch, *, broken: bool
) -> None:
    put_into(store, policy_for("a.example"), 1, KEY)
    one = await start(max_staleness="1h")
    await one.until_version(1)
    await asyncio.to_thread(store.kill)
    await one.until(lambda: not one.policy.source.connected)
    assert one.allows("a.example")
    if broken:
        monkeypatch.setattr(LastHeard, "is_too_long_ago", lambda _self: False)
    one.policy._heard._at -= 3601.0
    one.policy._look()
    assert one.allows("a.example") is broken


@pytest.mark.parametrize("broken", [False, True])
async def test_a_disk_that_is_full_at_the_moment_at_which_something_is_taken_back(
    start: Start, store: RedisServer, monkeypatch: pytest.MonkeyPatch, *, broken: bool
) -> None:
    put_into(store, policy_for("a.example", "b.example"), 1, KEY)
    one = await start()
    await one.until_version(1)
    tried: list[object] = []

    def full(path: Path, _data: bytes) -> None:
        tried.append(path)
        raise StoreError(f"{path}: no space left on device")

    async def keep_or_fail(self: FleetPolicy, accepted: Any) -> None:
        await asyncio.to_thread(self._shelf.keep, accepted.statement, accepted.envelope)

    with monkeypatch.context() as disk:
        disk.setattr(kept, "write_atomically", full)
        if broken:
            disk.setattr(FleetPolicy, "_keep", keep_or_fail)
        put_into(store, policy_for("b.example"), 2, KEY)
        if broken:
            await one.until(lambda: len(tried) > 1)
        else:
            await one.until_version(2)
        assert one.allows("a.example") is broken


@pytest.mark.parametrize("off", [-3600.0, 3600.0])
@pytest.mark.parametrize("broken", [False, True])
async def test_a_host_whose_clock_is_an_hour_off(monkeypatch: pytest.MonkeyPatch, *, off: float, broken: bool) -> None:
    """By its own clock it would end an approval of a minute at once, or an hour late."""
    put = ApprovalsInForce.put

    def by_its_own_clock(self: ApprovalsInForce, decision: Any, *, now: float, up: float) -> None:
        del now
        put(self, replace(decision, decided=self._clock() - 3600.0), now=self._clock(), up=up)

    if broken:
        monkeypatch.setattr(ApprovalsInForce, "put", by_its_own_clock)
    later = 0.0
    granted: list[tuple[object, ...]] = [()]
    now = time.time()
    requests = FleetRequests(
        Telling(replace(DECISION, decided=now, ends=now + 60), APPROVER),  # type: ignore[arg-type]  # what a store says
        FLEET,
        "one",
        trust=TRUST,
        mirror=None,  # type: ignore[arg-type]  # a worker that does not lead keeps none
        on_change=granted.append,
        clock=lambda: time.time() + off + later,
        uptime=lambda: time.monotonic() + later,
        leads=False,
    )
    await requests.read()
    in_force = [bool(granted[-1])]
    later = 61.0
    requests.in_force.end_what_is_over()
    in_force.append(bool(granted[-1]))
    expected = [True, False] if not broken else [off < 0, off < 0]
    assert in_force == expected


@pytest.mark.parametrize("broken", [False, True])
async def test_ten_minutes_without_a_store_under_load(
    store: RedisServer, canary: Canary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, broken: bool
) -> None:
    """No request fails but those under an exact lease, which say why. In the broken build shares last five seconds."""
    if broken:
        monkeypatch.setattr(shares_module, "_LASTS", {"local_share": 5.0})
    plain = Counting("plain", store.url, tmp_path / "plain", policy(canary.port))
    limited = Counting(
        "limited", store.url, tmp_path / "limited", policy(canary.port, limits=Limits(requests_per_minute=1000))
    )
    leased = Counting("leased", store.url, tmp_path / "leased", policy(canary.port, uses=1000))
    every = (plain, limited, leased)
    async with serving(*every):
        for each in every:
            assert await each.call() == "allowed"
        said: dict[str, set[str]] = {each.name: set() for each in every}
        stopping, phase = asyncio.Event(), 0

        async def load(replica: Counting) -> None:
            while not stopping.is_set():
                asked, answer = phase, await replica.call()
                if asked == phase:  # else it was decided before
                    said[replica.name].add(answer)
                await asyncio.sleep(0.01)

        callers = [asyncio.create_task(load(each)) for each in every]
        await asyncio.to_thread(store.kill)
        await until(lambda: not any(each.link.connected for each in every))
        await until(lambda: "store_unavailable" in said["leased"])
        phase = 1
        for answers in said.values():
            answers.clear()
        for each in every:
            each.later = TEN_MINUTES
        await until(lambda: all(said.values()))
        before = len(canary.arrivals)
        await until(lambda: len(canary.arrivals) >= before + 20)
        stopping.set()
        await asyncio.gather(*callers)
    assert said["plain"] == {"allowed"}
    assert said["leased"] == {"store_unavailable"}
    assert said["limited"] == ({"limit_exceeded"} if broken else {"allowed"})


async def test_an_exact_lease_without_a_store_in_a_build_that_counts_by_itself(
    store: RedisServer, canary: Canary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def commit(self: CountedAudit, event: Any, **more: Any) -> None:
        await self._inner.commit(event, **more)

    leased = Counting("leased", store.url, tmp_path / "leased", policy(canary.port, uses=1000))
    async with serving(leased):
        await asyncio.to_thread(store.kill)
        await until(lambda: not leased.link.connected)
        assert await leased.call() == "store_unavailable"
        assert canary.arrivals == []
        monkeypatch.setattr(CountedAudit, "commit", commit)
        assert await leased.call() == "allowed"
        await until(lambda: len(canary.arrivals) == 1)


async def test_two_hundred_publishes_in_a_build_that_hears_no_news(
    start: Start, store: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What brings the last one at once is news; without it the replica stands where it was until its next look."""
    put_into(store, policy_for("a.example"), 1, KEY)
    deaf = await start(poll="1h")
    await deaf.until(lambda: deaf.policy.source.connected and deaf.policy.number == (1, 1))
    monkeypatch.setattr(deaf.policy.source._link, "_heard", lambda _message: None)
    hearing = Replica(tmp_path / "b", store=store.url, trust=[KEY.public], poll="1h")
    await hearing.start()
    await hearing.until(lambda: hearing.policy.source.connected)
    for number in range(200):
        put_into(store, policy_for(f"h{number}.example"), number + 2, KEY)
    await hearing.until_version(201)
    await hearing.stop()
    assert hearing.allows("h199.example")
    assert deaf.policy.number == (1, 1)
