"""`fleet resume`: followed by every replica, whatever a clock said before, and signed by one of two keys."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloned_proxy.cli.commands.fleet.fleet_resume import resume
from cloned_proxy.fleet.approvals.approval_service import approver_key_file
from cloned_proxy.fleet.leases.use_memory import UseMemory
from cloned_proxy.fleet.leases.use_names import UseNames
from cloned_proxy.fleet.link.names import Names
from cloned_proxy.fleet.operating import resuming
from cloned_proxy.fleet.operating.resuming import resume_uses
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.workspaces.workspace import Workspace
from tests.fleet.conftest import RedisServer
from tests.fleet.counting import FLEET, OPERATOR, Canary, Replica, begin_count, policy, serving, until
from tests.fleet.lying import LyingStore

NAMES = UseNames(FLEET)
HOUR = 3600.0


@pytest.fixture
def canary() -> Iterator[Canary]:
    with Canary() as counting:
        yield counting


def publisher(directory: Path, store: RedisServer) -> Workspace:
    """A workspace with the signing key, and no approver's."""
    workspace = Workspace(directory)
    workspace.create()
    workspace.config_file.write_text(f"fleet: {{name: {FLEET}, store: '{store.url}', trust: ['{OPERATOR.public}']}}\n")
    workspace.fleet_key.parent.mkdir(mode=0o700, exist_ok=True)
    workspace.fleet_key.write_bytes(OPERATOR.pem())
    workspace.fleet_key.chmod(0o600)
    assert not approver_key_file(workspace).exists()
    return workspace


def listed(store: RedisServer, replica: str) -> None:
    """Puts it on the roster, so that it is awaited."""
    roster = Names(FLEET)
    with store.client() as client:
        client.hset(roster.replicas, f"{replica}/0", json.dumps({"replica": replica, "worker": 0}))
        client.zadd(roster.replicas_seen, {f"{replica}/0": int(time.time())})


@pytest.mark.parametrize("kept", ["in the store", "by the replica alone"])
async def test_a_resume_by_a_clock_that_was_ahead_does_not_outlive_it(
    store: RedisServer, canary: Canary, tmp_path: Path, kept: str
) -> None:
    replica = Replica("r", store.url, tmp_path / "r", policy(canary.port, uses=3))
    async with serving(replica):
        with store.client() as client:
            before = client.hget(NAMES.ledger, "generation")
            ahead = time.time() + HOUR
            assert begin_count(store.url, at=ahead, before=before)
            await until(lambda: replica.uses._memory.resumed == ahead)
            assert await replica.call() == "allowed"
            client.hset(NAMES.ledger, "behind", "somebody")
            if kept == "by the replica alone":
                client.delete(NAMES.ledger, NAMES.members)
            listed(store, "r")
            assert await replica.call() == "store_unavailable"
            word = await asyncio.to_thread(
                resume_uses, publisher(tmp_path / "desk", store), by="cli:op", reason="it was behind"
            )
            assert ahead < word.at < ahead + 2
            client.hset(NAMES.ledger, "settled", 0)
        await until(lambda: replica.uses._memory.generation == word.generation)
        assert [await replica.call() for _ in range(3)] == ["allowed", "allowed", "lease_used_up"]
    assert len(canary.arrivals) == 3


async def test_a_word_that_is_older_than_what_is_followed_is_told_where_it_is_ignored(
    store: RedisServer, canary: Canary, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    replica = Replica("r", store.url, tmp_path / "r", policy(canary.port, uses=3))
    async with serving(replica):
        with store.client() as client:
            before = client.hget(NAMES.ledger, "generation")
        assert begin_count(store.url, at=0.5, before=before)
        await until(lambda: "another count of uses began" in replica.uses.problem)
        assert "older than the one followed here" in capsys.readouterr().out
        # `fleet status` tells it, and not the first request that is refused for it alone.
        assert "another count of uses began" in replica.link.parts.faults["uses"]
        assert await replica.call() == "store_unavailable"
    assert canary.arrivals == []


async def test_a_replica_that_is_listed_and_does_not_follow_is_named_and_not_awaited_for_ever(
    store: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resuming, "_FOLLOW_SECONDS", 0.3)
    listed(store, "deaf")
    with pytest.raises(StoreError, match=r"not followed by deaf: no lease with `max_uses` is given there"):
        await asyncio.to_thread(resume_uses, publisher(tmp_path / "desk", store), by="cli:op", reason="x")
    with store.client() as client:
        assert client.hget(NAMES.ledger, "generation")


@pytest.mark.parametrize("lie", [lambda: sys.float_info.max, lambda: time.time() + 3 * HOUR, lambda: 0])
async def test_no_count_begins_by_a_time_that_the_clock_here_does_not_know(
    store: RedisServer, tmp_path: Path, lie: Callable[[], float]
) -> None:
    """Signed by it, the word would be the last one that any replica follows."""
    lying = LyingStore(store.socket, store.socket.parent / "lie.sock")
    lying.lie = lambda command, answer: [b"%d" % lie(), b"0"] if command[0].upper() == b"TIME" else answer
    workspace = publisher(tmp_path / "desk", store)
    workspace.config_file.write_text(workspace.config_file.read_text().replace(store.url, lying.url))
    async with lying.serving():
        with pytest.raises(StoreError, match=r"clock of the store and the one here differ by .* hours"):
            await asyncio.to_thread(resume_uses, workspace, by="cli:op", reason="x")
    with store.client() as client:
        assert not client.exists(NAMES.ledger)


async def test_a_word_from_the_future_is_followed_by_nobody_and_the_next_one_is(
    store: RedisServer, canary: Canary, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was signed by a build that believed a store which lies."""
    replica = Replica("r", store.url, tmp_path / "r", policy(canary.port, uses=3))
    async with serving(replica):
        assert await replica.call() == "allowed"
        with store.client() as client:
            before = client.hget(NAMES.ledger, "generation")
            assert begin_count(store.url, at=sys.float_info.max, before=before)
            await until(lambda: "another count of uses began" in replica.uses.problem)
            assert replica.uses._memory.resumed < time.time()
            assert "dated in the future" in capsys.readouterr().out
            listed(store, "r")
            word = await asyncio.to_thread(resume_uses, publisher(tmp_path / "desk", store), by="cli:op", reason="x")
            assert word.at < time.time() + HOUR
            client.hset(NAMES.ledger, "settled", 0)
        assert replica.uses._memory.generation == word.generation
        assert [await replica.call() for _ in range(3)] == ["allowed", "allowed", "lease_used_up"]


@pytest.mark.parametrize("resumed", [sys.float_info.max, float("inf"), float("nan")])
def test_a_time_that_cannot_have_been_is_not_remembered(tmp_path: Path, resumed: float) -> None:
    kept = UseMemory(tmp_path / "uses.json", generation="g")
    kept.follow("g", resumed, b"word")
    memory = UseMemory(tmp_path / "uses.json")
    memory.load(time.time())
    assert (memory.generation, memory.resumed, memory.word) == ("g", 0.0, "")


async def test_without_a_key_that_counts_nothing_is_resumed(store: RedisServer, tmp_path: Path) -> None:
    workspace = publisher(tmp_path / "desk", store)
    workspace.fleet_key.unlink()
    with pytest.raises(StoreError, match="approvals key"):
        await asyncio.to_thread(resume_uses, workspace, by="cli:op", reason="x")
    with store.client() as client:
        assert not client.exists(NAMES.ledger)


@pytest.mark.parametrize("ahead", [0.0, HOUR])
def test_a_count_that_is_dated_ahead_is_told_to_whoever_begins_it(
    store: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], ahead: float
) -> None:
    workspace = publisher(tmp_path / "desk", store)
    assert begin_count(store.url, at=time.time() - 1 + ahead)
    resume(reason="the store came back empty", workspace=workspace.root)
    said = capsys.readouterr().err
    assert "uses are counted anew" in said
    assert ("ahead, as the count before was by a clock that was wrong" in said) == bool(ahead), said
