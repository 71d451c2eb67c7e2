"""`max_uses` over all replicas: exactly as many as there are, and never one more, whatever the store does."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloned_proxy.fleet.approvals.approval_service import approver_key_file
from cloned_proxy.fleet.leases.resumption import read_resumption
from cloned_proxy.fleet.leases.use_names import UseNames
from cloned_proxy.fleet.leases.uses import FORGET_MILLISECONDS
from cloned_proxy.fleet.operating.resuming import resume_uses
from cloned_proxy.fleet.signed.envelope import Trust
from cloned_proxy.fleet.signed.keys import SigningKey
from cloned_proxy.store.workspaces.workspace import Workspace
from tests.fleet.conftest import RedisServer
from tests.fleet.counting import (
    FLEET,
    FORK,
    OPERATOR,
    Canary,
    Replica,
    begin_count,
    policy,
    processes,
    serving,
    until,
)
from tests.fleet.replicas import policy_for, publish

NAMES = UseNames(FLEET)


@pytest.fixture
def canary() -> Iterator[Canary]:
    with Canary() as counting:
        yield counting


def resume(store: RedisServer, key: SigningKey, *, at: float, fleet: str = FLEET) -> None:
    """As `fleet resume` does it."""
    with store.client() as client:
        before = client.hget(NAMES.ledger, "generation") or b""
    assert begin_count(store.url, key, at=at, fleet=fleet, before=before)


def operators(directory: Path, store: RedisServer) -> Workspace:
    """A workspace that has an approver's key: here it is the one that the replicas trust."""
    workspace = Workspace(directory)
    workspace.create()
    workspace.config_file.write_text(f"fleet: {{name: {FLEET}, store: '{store.url}', trust: ['{OPERATOR.public}']}}\n")
    key = approver_key_file(workspace)
    key.parent.mkdir(mode=0o700, exist_ok=True)
    key.write_bytes(OPERATOR.pem())
    key.chmod(0o600)
    return workspace


async def members(store: RedisServer, count: int) -> None:
    """Waits until so many replicas have told the count what they took."""
    with store.client() as client:
        await until(lambda: int(client.scard(NAMES.members)) == count)


async def lasting(replica: Replica, problem: str) -> None:
    """Calls until the store answers again, which refuses for this problem; and none of the calls passes."""
    async with asyncio.timeout(60):
        while problem not in replica.uses.problem:
            assert await replica.call() == "store_unavailable"


def test_ten_processes_pass_a_hundred_of_a_thousand_calls(store: RedisServer, canary: Canary, tmp_path: Path) -> None:
    told = FORK.Queue()

    def work(number: int) -> None:
        async def run() -> None:
            replica = Replica(f"r{number}", store.url, tmp_path / str(number), policy(canary.port, uses=100))
            async with serving(replica):
                told.put(Counter([await replica.call() for _ in range(100)]))

        asyncio.run(run())

    with processes(10, work):
        outcomes = sum((told.get(timeout=120) for _ in range(10)), Counter[str]())
    assert outcomes == {"allowed": 100, "lease_used_up": 900}
    assert len(canary.arrivals) == 100


def test_a_killed_process_gives_no_use_twice(store: RedisServer, canary: Canary, tmp_path: Path) -> None:
    def work(number: int) -> None:
        async def run() -> None:
            replica = Replica(f"r{number}", store.url, tmp_path / str(number), policy(canary.port, uses=100))
            async with serving(replica):
                # The one that is killed goes on until it is: its death meets it in the middle of a call.
                while number == 0 or await replica.call() != "lease_used_up":
                    await replica.call()

        asyncio.run(run())

    with processes(4, work) as (victim, *others):
        while len(canary.arrivals) < 30:
            time.sleep(0.001)
        victim.kill()
        for process in (victim, *others):
            process.join(60)
        assert [process.exitcode for process in (victim, *others)] == [-signal.SIGKILL, 0, 0, 0]
    # A use that it had taken and not sent is lost; one call of it at most was under way.
    assert 99 <= len(canary.arrivals) <= 100


async def test_without_a_store_no_use_is_given_and_the_reason_says_so(
    store: RedisServer, canary: Canary, tmp_path: Path
) -> None:
    replica = Replica("r", store.url, tmp_path / "r", policy(canary.port, uses=5))
    plain = Replica("p", store.url, tmp_path / "p", policy(canary.port))
    async with serving(replica, plain):
        assert await replica.call() == "allowed"
        store.kill()
        outcomes = [await replica.call() for _ in range(6)]
        assert outcomes == ["store_unavailable"] * 6  # not used up: what is refused takes nothing
        assert await plain.call() == "allowed"
        assert "redis.sock" in replica.uses.problem or "Connection" in replica.uses.problem
    assert len(canary.arrivals) == 2


async def test_a_store_that_forgets_everything_gives_nothing_until_an_operator_says_so(
    store: RedisServer, canary: Canary, tmp_path: Path
) -> None:
    current = policy(canary.port, uses=3)
    one, two = (Replica(name, store.url, tmp_path / name, current) for name in ("one", "two"))
    async with serving(one, two):
        assert [await one.call(), await two.call()] == ["allowed", "allowed"]
        store.restart()
        await lasting(one, "has lost its data")
        await lasting(two, "has lost its data")
        # Another key than the operator's resumes nothing, nor does a word for another fleet.
        resume(store, SigningKey.generate(), at=100.0)
        assert [await one.call(), await two.call()] == ["store_unavailable"] * 2
        resume(store, OPERATOR, at=100.0, fleet="other")
        assert [await one.call(), await two.call()] == ["store_unavailable"] * 2
        await asyncio.to_thread(resume_uses, operators(tmp_path / "desk", store), by="cli:op", reason="it was empty")
        with store.client() as client:
            client.hset(NAMES.ledger, "settled", 0)  # ten seconds later
        # Each tells what it took by its own disk, so one is left of three.
        await members(store, 2)
        assert [await one.call(), await two.call()] == ["allowed", "lease_used_up"]
    assert len(canary.arrivals) == 3


async def test_replicas_that_are_asked_nothing_tell_a_resumed_count_what_they_took(
    store: RedisServer, canary: Canary, tmp_path: Path
) -> None:
    """Else the others would be given it again."""
    current = policy(canary.port, uses=4)
    replicas = [Replica(name, store.url, tmp_path / name, current) for name in ("one", "two", "three")]
    one, *others = replicas
    async with serving(*replicas):
        assert [await one.call() for _ in range(5)] == ["allowed"] * 4 + ["lease_used_up"]
        store.restart()
        for replica in replicas:
            await until(lambda replica=replica: "has lost its data" in replica.uses.problem)  # type: ignore[misc]
        begin_count(store.url, at=100.0, settle=10_000)
        await members(store, 3)
        with store.client() as client:
            client.hset(NAMES.ledger, "settled", 0)
        assert [await other.call() for other in others] == ["lease_used_up"] * 2
    assert len(canary.arrivals) == 4


async def test_a_rule_whose_count_was_evicted_gives_nothing_until_an_operator_says_so(
    store: RedisServer, canary: Canary, tmp_path: Path
) -> None:
    """The ledger is still there, and the replica that asks has taken nothing."""
    current = policy(canary.port, uses=2)
    one, two = (Replica(name, store.url, tmp_path / name, current) for name in ("one", "two"))
    async with serving(one, two):
        assert [await one.call() for _ in range(2)] == ["allowed"] * 2
        with store.client() as client:
            client.delete(NAMES.uses(current.rules[0].id))
        assert [await two.call(), await two.call()] == ["store_unavailable"] * 2
        assert "has forgotten uses" in two.uses.problem
        resume(store, OPERATOR, at=100.0)
        await members(store, 2)
        assert await two.call() == "lease_used_up"
    assert len(canary.arrivals) == 2


async def test_a_count_that_is_lower_than_what_a_replica_took_is_not_believed(
    store: RedisServer, canary: Canary, tmp_path: Path
) -> None:
    current = policy(canary.port, uses=9)
    replica = Replica("r", store.url, tmp_path / "r", current)
    async with serving(replica):
        assert [await replica.call() for _ in range(2)] == ["allowed"] * 2
        rule = current.rules[0].id
        with store.client() as client:  # both say the same
            client.hset(NAMES.uses(rule), "r", 1)
            client.hset(NAMES.ledger, f"total:{rule}", 1)
        assert await replica.call() == "store_unavailable"
        assert "has forgotten uses of which 'r' knows" in replica.uses.problem
    assert len(canary.arrivals) == 2


async def test_a_store_without_a_count_gives_nothing_to_a_replica_that_knows_of_none(
    store: RedisServer, canary: Canary, tmp_path: Path
) -> None:
    """What is empty may have been emptied, and who knew of uses may be gone."""
    current = policy(canary.port, uses=1)
    first = Replica("r", store.url, tmp_path / "r", current)
    async with serving(first):
        assert await first.call() == "allowed"
    with store.client() as client:
        client.flushall()
    stranger = Replica("s", store.url, tmp_path / "s", current, begins=False)
    again = Replica("r", store.url, tmp_path / "r", current, begins=False)
    async with serving(stranger, again):
        assert [await stranger.call(), await again.call()] == ["store_unavailable", "lease_used_up"]
        assert "has lost its data" in stranger.uses.problem
    assert len(canary.arrivals) == 1


async def test_the_first_publish_begins_the_count_and_no_later_one(store: RedisServer, tmp_path: Path) -> None:
    await publish(store.url, OPERATOR, policy_for("a.example"), tmp_path, wait=0)
    with store.client() as client:
        word = read_resumption(client.hget(NAMES.ledger, "resume"), Trust([OPERATOR.public]), FLEET)
        assert client.hget(NAMES.ledger, "generation") == word.generation.encode()
        client.delete(NAMES.ledger)
        await publish(store.url, OPERATOR, policy_for("b.example"), tmp_path, wait=0)
        assert not client.exists(NAMES.ledger)


async def test_the_first_count_begins_when_nothing_is_left_to_be_heard(
    store: RedisServer, canary: Canary, tmp_path: Path
) -> None:
    begin_count(store.url, settle=600_000)
    replica = Replica("s", store.url, tmp_path / "s", policy(canary.port, uses=1))
    async with serving(replica):
        assert await replica.call() == "store_unavailable"
        assert "are given in" in replica.uses.problem
    assert canary.arrivals == []


async def test_a_store_that_came_back_as_it_was_gives_no_more_than_there_are_though_a_replica_is_gone(
    store: RedisServer, canary: Canary, tmp_path: Path
) -> None:
    """The one that is gone came after the snapshot, so neither the store nor anybody else has heard of it."""
    current = policy(canary.port, uses=5)
    one, gone = (Replica(name, store.url, tmp_path / name, current) for name in ("one", "gone"))
    async with serving(one):
        with store.client() as client:
            client.save()
        async with serving(gone):
            assert [await gone.call() for _ in range(3)] == ["allowed"] * 3
        store.restart()
        await lasting(one, "another server answers")
        assert [await one.call() for _ in range(9)] == ["store_unavailable"] * 9
        assert len(canary.arrivals) == 3
        # What is on the disk of replicas that are there is counted once an operator lets it go on.
        again = Replica("gone", store.url, tmp_path / "gone", current)
        resume(store, OPERATOR, at=100.0)
        async with serving(again):
            assert Counter([await one.call() for _ in range(5)]) == {"allowed": 2, "lease_used_up": 3}
    assert len(canary.arrivals) == 5


async def test_a_store_that_is_set_back_while_it_runs_is_caught_by_whoever_knows_better(
    store: RedisServer, canary: Canary, tmp_path: Path
) -> None:
    current = policy(canary.port, uses=5)
    one, two = (Replica(name, store.url, tmp_path / name, current) for name in ("one", "two"))
    async with serving(one, two):
        with store.client() as client:
            kept = {name: client.dump(name) for name in client.keys("*uses*")}
            assert [await two.call() for _ in range(4)] == ["allowed"] * 4
            client.flushall()
            for name, value in kept.items():
                client.restore(name, 0, value)
        assert await two.call() == "store_unavailable"
        assert "has forgotten uses of which 'two' knows" in two.uses.problem
        assert await one.call() == "store_unavailable"  # which knows of nothing
    assert len(canary.arrivals) == 4


async def test_uses_under_way_are_told_to_a_count_that_was_resumed(
    store: RedisServer, canary: Canary, tmp_path: Path
) -> None:
    """They are not on the disk yet, and may pass any moment."""
    current = policy(canary.port, uses=2)
    replica = Replica("r", store.url, tmp_path / "r", current)
    async with serving(replica):
        rule = current.rules[0].id
        async with replica.uses.use(rule, 2):
            with store.client() as client:
                client.delete(NAMES.uses(rule))
            resume(store, OPERATOR, at=100.0)
            assert await replica.call() == "allowed"
            assert await replica.call() == "lease_used_up"


def test_counts_that_nobody_asks_about_leave_the_store(store: RedisServer, canary: Canary, tmp_path: Path) -> None:
    current = policy(canary.port, uses=5)

    async def run() -> str:
        replica = Replica("r", store.url, tmp_path / "r", current)
        async with serving(replica):
            assert await replica.call() == "allowed"
            return current.rules[0].id

    rule = asyncio.run(run())
    with store.client() as client:
        assert 0 < client.pttl(NAMES.uses(rule)) <= FORGET_MILLISECONDS
        # After their time they are gone, from the ledger too, and nobody takes that for a loss.
        client.delete(NAMES.uses(rule))
        client.hset(NAMES.ledger, f"asked:{rule}", int(time.time() * 1000) - FORGET_MILLISECONDS)

    async def ask_later() -> str:
        other = Replica("other", store.url, tmp_path / "other", current)
        async with serving(other):
            with store.client() as client:
                assert not client.hexists(NAMES.ledger, f"total:{rule}")
            return await other.call()

    assert asyncio.run(ask_later()) == "allowed"


async def test_followers_must_have_a_use_before_it_is_given(store: RedisServer, canary: Canary, tmp_path: Path) -> None:
    replica = Replica("r", store.url, tmp_path / "r", policy(canary.port, uses=5), acknowledged_by=1)
    async with serving(replica):
        assert await replica.call() == "store_unavailable"
        assert "0 followers" in replica.uses.problem
    assert canary.arrivals == []


def test_a_memory_that_cannot_be_read_is_not_taken_for_none(store: RedisServer, tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "uses.json").write_text(json.dumps({"generation": 1}))
    with pytest.raises(Exception, match=r"uses\.json: not readable"):
        Replica("r", store.url, tmp_path / "r", policy(1, uses=1))
