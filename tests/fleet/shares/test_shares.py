"""Limits over all replicas: together never more than the limit, whatever becomes of the store or of one of them."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloned_proxy.fleet.shares.share import Part
from cloned_proxy.fleet.shares.share_loss import ShareLoss
from cloned_proxy.fleet.shares.share_names import ShareNames
from cloned_proxy.fleet.signed.errors import StoreAwayError
from cloned_proxy.policy.model.model import Limits
from cloned_proxy.proxy.grants.grant import Grant
from cloned_proxy.proxy.replica.share_cells import smaller
from tests.fleet.conftest import RedisServer
from tests.fleet.counting import FLEET, TOOL, Canary, Replica, policy, processes, serving, until

NAMES = ShareNames(FLEET)
WINDOW = 61.0


@pytest.fixture
def canary() -> Iterator[Canary]:
    with Canary() as counting:
        yield counting


async def drain(replicas: list[Replica], calls: int) -> Counter[str]:
    """So many calls on each, all replicas at once."""

    async def some(replica: Replica) -> list[str]:
        return [await replica.call() for _ in range(calls)]

    return Counter(reason for reasons in await asyncio.gather(*map(some, replicas)) for reason in reasons)


async def until_passed(replica: Replica, count: int) -> None:
    """Calls until so many have passed: a share follows demand within some moments."""
    async with asyncio.timeout(60):
        while count:
            if await replica.call() == "allowed":
                count -= 1
            else:
                await asyncio.sleep(0.02)


def worst_window(canary: Canary) -> int:
    arrivals = canary.arrivals
    return max(sum(start <= at < start + WINDOW for at in arrivals) for start in arrivals)


async def test_ten_replicas_pass_together_what_the_limit_says(
    store: RedisServer, canary: Canary, tmp_path: Path
) -> None:
    current = policy(canary.port, limits=Limits(requests_per_minute=50))
    replicas = [Replica(f"r{n}", store.url, tmp_path / f"r{n}", current) for n in range(10)]
    async with serving(*replicas):
        outcomes = await drain(replicas, 20)
        assert outcomes.keys() == {"allowed", "limit_exceeded"}
        # Nothing of the limit is lost: what nobody else uses, one replica gets.
        left = 50 - outcomes["allowed"]
        await until_passed(replicas[3], left)
        assert (await drain(replicas, 3))["allowed"] == 0
    assert len(canary.arrivals) == 50
    assert worst_window(canary) == 50


async def test_one_busy_replica_gets_nearly_all_and_gives_back_what_another_needs(
    store: RedisServer, canary: Canary, tmp_path: Path
) -> None:
    current = policy(canary.port, limits=Limits(requests_per_minute=40))
    busy, late = (Replica(name, store.url, tmp_path / name, current) for name in ("busy", "late"))
    async with serving(busy, late):
        await until_passed(busy, 30)
        assert await late.call() in {"allowed", "limit_exceeded"}  # the first may have all of it at this moment
        await until_passed(late, 10 - len(canary.arrivals) + 30)
        assert (await drain([busy, late], 5))["allowed"] == 0
    assert len(canary.arrivals) == 40


async def test_places_over_all_replicas(store: RedisServer, canary: Canary, tmp_path: Path) -> None:
    current = policy(canary.port, limits=Limits(concurrent=3))
    one, two = (Replica(name, store.url, tmp_path / name, current) for name in ("one", "two"))
    async with serving(one, two):
        held: list[tuple[Replica, Grant]] = []
        async with asyncio.timeout(60):
            while len(held) < 3:
                for replica in (one, two):
                    if isinstance(outcome := await replica.ask(), Grant):
                        held.append((replica, outcome))  # noqa: PERF401  one after the other
        assert [isinstance(await replica.ask(), Grant) for replica in (one, two, one, two)] == [False] * 4
        replica, grant = held.pop()
        replica.enforcer.finish(grant, "client_closed")
        other = one if replica is two else two
        async with asyncio.timeout(60):  # the place goes over to the other replica, which waits for it
            while not isinstance(await other.ask(), Grant):  # noqa: ASYNC110  asking is what moves it
                await asyncio.sleep(0.02)
        assert [isinstance(await each.ask(), Grant) for each in (one, two)] == [False, False]


@pytest.mark.parametrize(("on_store_loss", "after"), [("local_share", "allowed"), ("deny", "limit_exceeded")])
async def test_when_the_store_is_away(
    store: RedisServer, canary: Canary, tmp_path: Path, on_store_loss: str, after: str
) -> None:
    current = policy(canary.port, limits=Limits(requests_per_minute=40))
    replicas = [
        Replica(name, store.url, tmp_path / name, current, on_store_loss=on_store_loss) for name in ("one", "two")
    ]
    async with serving(*replicas):
        assert (await drain(replicas, 2))["allowed"] == 4
        store.freeze()
        for replica in replicas:
            replica.later = 10.0
        assert await drain(replicas, 2) == {after: 4}
        for replica in replicas:
            replica.later = 1000.0  # nobody goes on for ever: the store may have given the shares to others by now
        assert await drain(replicas, 1) == {"limit_exceeded": 2}
        store.thaw()


async def test_a_share_is_used_up_alone_while_the_store_is_away(
    store: RedisServer, canary: Canary, tmp_path: Path
) -> None:
    current = policy(canary.port, limits=Limits(requests_per_minute=20))
    replicas = [Replica(name, store.url, tmp_path / name, current) for name in ("one", "two")]
    async with serving(*replicas):
        await drain(replicas, 2)
        for replica in replicas:
            replica.shares._settle = 60_000
        store.kill()
        await until(lambda: not any(replica.link.connected for replica in replicas))
        outcomes = await drain(replicas, 30)
        assert outcomes["allowed"] + 4 <= 20
        store.start()  # with nothing: each says what it has, and is given no more
        await until(lambda: all(replica.link.connected for replica in replicas))
        await drain(replicas, 30)
    assert 4 < len(canary.arrivals) <= 20


async def test_a_share_of_a_dead_replica_comes_back_after_a_window_and_not_before(
    store: RedisServer, canary: Canary, tmp_path: Path
) -> None:
    current = policy(canary.port, limits=Limits(requests_per_minute=10))
    dead, alive = (Replica(name, store.url, tmp_path / name, current) for name in ("dead", "alive"))
    async with serving(alive):
        async with serving(dead):
            await until_passed(dead, 6)
        await drain([alive], 40)
        assert len(canary.arrivals) <= 10
        again = Replica("dead", store.url, tmp_path / "dead", current)
        async with serving(again):  # another process of that name: what the first one used is still in the window
            await drain([alive, again], 20)
    assert 6 <= len(canary.arrivals) <= 10


async def test_a_stop_gives_back_what_was_not_used(store: RedisServer, canary: Canary, tmp_path: Path) -> None:
    current = policy(canary.port, limits=Limits(requests_per_minute=10))
    leaving, staying = (Replica(name, store.url, tmp_path / name, current) for name in ("leaving", "staying"))
    async with serving(leaving, staying):
        await until_passed(leaving, 2)
        await leaving.stop()
        await until_passed(staying, 10 - len(canary.arrivals))
        assert (await drain([staying], 5))["allowed"] == 0
    assert len(canary.arrivals) == 10


def test_processes_that_are_killed_leave_no_more_than_the_limit(
    store: RedisServer, canary: Canary, tmp_path: Path
) -> None:
    current = policy(canary.port, limits=Limits(requests_per_minute=60))

    def work(number: int) -> None:
        async def run() -> None:
            replica = Replica(f"r{number}", store.url, tmp_path / str(number), current)
            async with serving(replica):
                for _ in range(200):
                    await replica.call()

        asyncio.run(run())

    with processes(4, work) as started:
        started[0].join(0.3)
        started[0].kill()
        for process in started:
            process.join(60)
    assert 0 < len(canary.arrivals) <= 60


async def test_a_request_within_its_share_asks_the_store_nothing(
    store: RedisServer, canary: Canary, tmp_path: Path
) -> None:
    current = policy(canary.port, limits=Limits(requests_per_minute=10_000))
    replica = Replica("r", store.url, tmp_path / "r", current)
    async with serving(replica):
        assert await replica.call() == "allowed"
        with store.client() as client:
            before = client.info("commandstats")["cmdstat_eval"]["calls"]
            assert await drain([replica], 200) == {"allowed": 200}
            assert client.info("commandstats")["cmdstat_eval"]["calls"] - before <= 30  # by the clock


async def confirmed(store: RedisServer, *replicas: Replica) -> None:
    """Waits until the store knows the share of each again."""
    with store.client() as client:
        await until(lambda: all(client.hexists(NAMES.shares(TOOL), each.name) for each in replicas))


def settled(store: RedisServer) -> None:
    """As if the seconds were over in which nothing new is given."""
    with store.client() as client:
        client.hset(NAMES.server, "settled", int(client.hget(NAMES.server, "clock")))


@pytest.mark.parametrize("lost", ["everything", "the shares of one tool"])
async def test_a_store_that_forgets_while_it_runs_gives_no_more_than_there_is(
    store: RedisServer, canary: Canary, tmp_path: Path, lost: str
) -> None:
    """Each connection stands, and the one that asks next knows of nothing."""
    current = policy(canary.port, limits=Limits(requests_per_minute=40))
    busy, late = (Replica(name, store.url, tmp_path / name, current, settle=60_000) for name in ("busy", "late"))
    async with serving(busy):
        assert await busy.call() == "limit_exceeded"  # a new server settles first
        settled(store)
        await until_passed(busy, 30)
        # All of it is there, so that nothing but the loss makes it ask again.
        await until(lambda: busy.shares._shares[TOOL].parts[0] == 40)
        with store.client() as client:
            client.flushall() if lost == "everything" else client.delete(NAMES.shares(TOOL))
        async with serving(late):
            await drain([late], 2)
            await confirmed(store, busy)
            settled(store)
            await drain([late, busy], 50)
    assert 30 <= len(canary.arrivals) <= 40
    assert not busy.link.problem


async def test_what_a_dead_replica_spent_comes_back_a_window_after_the_loss_and_not_before(
    store: RedisServer, canary: Canary, tmp_path: Path
) -> None:
    """Nobody can tell the store of it."""
    current = policy(canary.port, limits=Limits(requests_per_minute=40))
    alive, dead = (Replica(name, store.url, tmp_path / name, current) for name in ("alive", "dead"))
    async with serving(alive):
        assert await alive.call() == "allowed"
        async with serving(dead):
            await until_passed(dead, 25)
        alive.shares._settle = 60_000
        with store.client() as client:
            client.flushall()
            await confirmed(store, alive)
            settled(store)
            new = Replica("new", store.url, tmp_path / "new", current)
            async with serving(new):
                await drain([alive, new], 60)
                assert len(canary.arrivals) <= 40
                before = len(canary.arrivals)
                assert json.loads(client.hget(NAMES.shares(TOOL), ":confirmed"))["has"][0] <= 15
                # A window later.
                client.hincrby(NAMES.server, "settled", -64_000)
                await until_passed(new, 40 - before)


async def test_a_loss_is_noticed_though_an_answer_from_before_it_comes_later(
    store: RedisServer, canary: Canary, tmp_path: Path
) -> None:
    replica = Replica("r", store.url, tmp_path / "r", policy(canary.port, limits=Limits(requests_per_minute=9)))
    async with serving(replica):
        assert await replica.call() == "allowed"
        asked, answered, run = asyncio.Event(), asyncio.Event(), replica.link.run

        async def slowly(work: Any, **more: Any) -> Any:
            found = await run(work, **more)
            asked.set()
            await answered.wait()
            return found

        replica.link.run = slowly  # type: ignore[method-assign]  # the answer is under way
        share = replica.shares._shares[TOOL]
        asking = asyncio.create_task(replica.shares._exchange(TOOL, share))
        await asked.wait()
        replica.shares._tell_all()
        replica.link.run = run  # type: ignore[method-assign]
        answered.set()
        await asking
        assert not share.told


@pytest.mark.parametrize("told", [b"", b"x" * 41, 7, None, [b"x"]])
def test_names_of_data_that_no_store_gives(told: object) -> None:
    loss = ShareLoss(None, NAMES, on_loss=pytest.fail, clock=float)  # type: ignore[arg-type]  # asks nobody
    with pytest.raises(StoreAwayError):
        loss.learn(told)
    assert loss.told()[0] == b""


@pytest.mark.parametrize(
    ("part", "sharers", "wanted"),
    [
        (Part(None, 5, 0), 3, 0),
        (Part(100, 0, 0), 4, 20),
        (Part(100, 20, 25), 4, 41),
        (Part(100, 90, 60), 4, 100),
        (Part(100, 10, 41), 4, 41),  # kept: a steady load changes nothing
        (Part(100, 0, 90), 4, 20),  # much more than it needs
        (Part(1, 0, 0), 10, 1),
    ],
)
def test_what_a_replica_wants(part: Part, sharers: int, wanted: int) -> None:
    assert part.wanted(sharers) == wanted


def test_a_share_is_never_above_the_limit_of_the_policy_whatever_the_store_grants() -> None:
    limits = Limits(concurrent=2, requests_per_minute=5, bytes_per_hour=100)
    assert smaller(limits, limits, (10**12, 10**15, 10**6)) == limits
