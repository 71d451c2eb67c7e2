"""`max_uses` over all replicas: exactly as many as there are, and never one more, whatever the store does."""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloned_proxy.fleet.approval_service import approver_key_file
from cloned_proxy.fleet.keys import SigningKey
from cloned_proxy.fleet.resuming import resume_uses
from cloned_proxy.fleet.resumption import Resumption, seal_resumption
from cloned_proxy.fleet.use_names import UseNames
from cloned_proxy.fleet.use_scripts import RESUME
from cloned_proxy.store.workspace import Workspace
from tests.fleet.conftest import RedisServer
from tests.fleet.counting import FLEET, FORK, OPERATOR, Canary, Replica, policy, processes, serving

NAMES = UseNames(FLEET)


@pytest.fixture
def canary() -> Iterator[Canary]:
    with Canary() as counting:
        yield counting


def resume(store: RedisServer, key: SigningKey, *, at: float, fleet: str = FLEET) -> None:
    """As `fleet resume` does it."""
    with store.client() as client:
        before = client.hget(NAMES.ledger, "generation") or b""
        word = Resumption(fleet, secrets.token_hex(8), at, "cli:op", "the store was empty")
        keys = (NAMES.ledger, NAMES.members, NAMES.waiting)
        assert client.eval(RESUME, 3, *keys, before, word.generation, seal_resumption(word, key), 0) == 1


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
        await two.uses.join()
        assert [await one.call(), await two.call()] == ["allowed", "lease_used_up"]
    assert len(canary.arrivals) == 3


async def test_a_replica_that_starts_anew_remembers_the_count_that_was_lost(
    store: RedisServer, canary: Canary, tmp_path: Path
) -> None:
    current = policy(canary.port, uses=1)
    first = Replica("r", store.url, tmp_path / "r", current)
    async with serving(first):
        assert await first.call() == "allowed"
    with store.client() as client:
        client.flushall()
    # One without any memory begins a count; the one that knows better takes that back.
    stranger = Replica("s", store.url, tmp_path / "s", current, settle=600_000)
    again = Replica("r", store.url, tmp_path / "r", current)
    async with serving(stranger):
        assert await stranger.call() == "store_unavailable"
        assert "are given in" in stranger.uses.problem
        async with serving(again):
            assert [await again.call(), await stranger.call()] == ["lease_used_up", "store_unavailable"]
            assert "another count" in stranger.uses.problem
    assert len(canary.arrivals) == 1


async def test_after_a_restart_with_an_old_file_all_have_to_tell_what_they_took(
    store: RedisServer, canary: Canary, tmp_path: Path
) -> None:
    """The store comes back as it was some uses ago, as from a snapshot."""
    current = policy(canary.port, uses=4)
    one, two = (Replica(name, store.url, tmp_path / name, current) for name in ("one", "two"))
    async with serving(one, two):
        assert [await one.call(), await two.call()] == ["allowed", "allowed"]
        with store.client() as client:
            client.save()
        assert await two.call() == "allowed"
        await two.link.close()  # it is cut off, and does not hear of the restart
        store.restart()
        await lasting(one, "have not told")
        assert one.uses.problem.count("two") == 1
        back = Replica("two", store.url, tmp_path / "again", current)
        back.uses._taken_here = two.uses._taken_here  # its disk
        await back.uses.join()
        assert [await one.call(), await one.call()] == ["allowed", "lease_used_up"]
        await back.close()
    assert len(canary.arrivals) == 4


async def test_a_replica_that_leaves_is_not_waited_for(store: RedisServer, canary: Canary, tmp_path: Path) -> None:
    current = policy(canary.port, uses=4)
    one, two = (Replica(name, store.url, tmp_path / name, current) for name in ("one", "two"))
    async with serving(one, two):
        assert [await one.call(), await two.call()] == ["allowed", "allowed"]
        await two.uses.leave()
        with store.client() as client:
            assert client.smembers(NAMES.members) == {b"one"}
            client.hset(NAMES.ledger, "run", "0" * 40)  # as if another server had taken over
        assert await one.call() == "allowed"


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
