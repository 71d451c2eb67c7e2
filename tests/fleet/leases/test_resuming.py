"""`fleet resume`: followed by every replica, whatever a clock said before, and signed by one of two keys."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloned_proxy.cli.commands.fleet.fleet_resume import resume
from cloned_proxy.fleet.approvals.approval_service import approver_key_file
from cloned_proxy.fleet.leases.use_names import UseNames
from cloned_proxy.fleet.link.names import Names
from cloned_proxy.fleet.operating import resuming
from cloned_proxy.fleet.operating.resuming import resume_uses
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.workspaces.workspace import Workspace
from tests.fleet.conftest import RedisServer
from tests.fleet.counting import FLEET, OPERATOR, Canary, Replica, begin_count, policy, serving, until

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
            # It is on the roster, so that it is awaited.
            roster = Names(FLEET)
            client.hset(roster.replicas, "r/0", json.dumps({"replica": "r", "worker": 0}))
            client.zadd(roster.replicas_seen, {"r/0": int(time.time())})
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
        assert "another count of uses began" in replica.link.faults["uses"]
        assert await replica.call() == "store_unavailable"
    assert canary.arrivals == []


async def test_a_replica_that_is_listed_and_does_not_follow_is_not_awaited_for_ever(
    store: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resuming, "_FOLLOW_SECONDS", 0.3)

    async def nobody(*_: object) -> bool:
        return await asyncio.sleep(0, False)

    monkeypatch.setattr(resuming, "_all_follow", nobody)
    word = await asyncio.to_thread(resume_uses, publisher(tmp_path / "desk", store), by="cli:op", reason="x")
    with store.client() as client:
        assert client.hget(NAMES.ledger, "generation") == word.generation.encode()


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
