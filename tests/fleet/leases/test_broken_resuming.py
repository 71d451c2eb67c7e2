"""`fleet resume` without each of its guards: uses are given twice, or never again. Nothing waits without end."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloned_proxy.fleet.leases import uses as uses_module
from cloned_proxy.fleet.leases.resumption import LeaseResumption, read_resumption
from cloned_proxy.fleet.leases.use_memory import UseMemory
from cloned_proxy.fleet.operating import resuming
from cloned_proxy.fleet.operating.resuming import resume_uses
from cloned_proxy.fleet.signed.envelope import Trust
from cloned_proxy.fleet.signed.keys import SigningKey
from cloned_proxy.store.files.errors import StoreError
from tests.fleet.conftest import RedisServer
from tests.fleet.counting import Canary, Replica, begin_count, policy, serving, until
from tests.fleet.leases.test_resuming import HOUR, NAMES, listed, publisher
from tests.fleet.lying import LyingStore

USES = 3


@pytest.fixture
def canary() -> Iterator[Canary]:
    with Canary() as counting:
        yield counting


async def spent_and_gone(store: RedisServer, canary: Canary, tmp_path: Path) -> None:
    """A replica that took all uses, and is there no more; then the store is emptied."""
    gone = Replica("gone", store.url, tmp_path / "gone", policy(canary.port, uses=USES))
    async with serving(gone):
        assert [await gone.call() for _ in range(USES)] == ["allowed"] * USES
    with store.client() as client:
        client.flushall()


@pytest.mark.parametrize("broken", [False, True])
async def test_a_count_that_a_stranger_has_begun(
    store: RedisServer, canary: Canary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, broken: bool
) -> None:
    stranger = SigningKey.generate()
    await spent_and_gone(store, canary, tmp_path)
    if broken:

        def unchecked(raw: bytes, _trust: Trust, fleet: str) -> LeaseResumption:
            return read_resumption(raw, Trust([stranger.public]), fleet)

        monkeypatch.setattr(uses_module, "read_resumption", unchecked)
    assert begin_count(store.url, stranger, at=100.0)
    replica = Replica("r", store.url, tmp_path / "r", policy(canary.port, uses=USES), begins=False)
    async with serving(replica):
        said = [await replica.call() for _ in range(USES)]
    assert said == (["allowed"] if broken else ["store_unavailable"]) * USES
    assert len(canary.arrivals) == USES * (2 if broken else 1)


@pytest.mark.parametrize("broken", [False, True])
async def test_an_old_word_that_a_store_offers_again(
    store: RedisServer, canary: Canary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, broken: bool
) -> None:
    """An operator had really signed it, long ago; what was counted since then is gone with it."""
    replica = Replica("r", store.url, tmp_path / "r", policy(canary.port, uses=USES))
    async with serving(replica):
        with store.client() as client:
            before = client.hget(NAMES.ledger, "generation")
            old = client.hget(NAMES.ledger, "resume")
            assert begin_count(store.url, at=100.0, before=before)
            await until(lambda: replica.uses._memory.resumed == 100.0)
            if broken:
                # For good: a step of the count that is under way would write the number that it began with.
                monkeypatch.setattr(UseMemory, "resumed", property(lambda _: 0.0, lambda *_: None))
            # Set back as a whole to the count that it had then.
            client.delete(NAMES.ledger, NAMES.members)
            run = f"{client.info('server')['run_id']} {client.info('replication')['master_replid']}"
            ledger = {"generation": before, "run": run, "settled": 0, "resume": old}
            client.hset(NAMES.ledger, mapping=ledger)
        if broken:
            await until(lambda: replica.uses._memory.generation == (before or b"").decode())
        else:
            await until(lambda: "another count of uses began" in replica.uses.problem)
            assert replica.uses._memory.resumed == 100.0
            assert await replica.call() == "store_unavailable"


@pytest.mark.parametrize("broken", [False, True])
async def test_a_word_from_the_end_of_time(
    store: RedisServer, canary: Canary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, broken: bool
) -> None:
    """In the broken build it is the last one that is ever followed: no lease is given again, and `resume` says so."""
    if broken:
        monkeypatch.setattr(LeaseResumption, "is_possible", lambda _self, _now: True)
    monkeypatch.setattr(resuming, "_FOLLOW_SECONDS", 0.5 if broken else 60.0)
    replica = Replica("r", store.url, tmp_path / "r", policy(canary.port, uses=USES))
    async with serving(replica):
        with store.client() as client:
            before = client.hget(NAMES.ledger, "generation")
            assert begin_count(store.url, at=sys.float_info.max, before=before)
            await until(lambda: bool(replica.uses.problem) or replica.uses._memory.resumed > time.time())
            listed(store, "r")
        resuming_now = asyncio.to_thread(
            resume_uses, publisher(tmp_path / "desk", store), by="cli:op", reason="it was dated ahead"
        )
        async with asyncio.timeout(60):
            if broken:
                with pytest.raises(StoreError):
                    await resuming_now
            else:
                await resuming_now
        with store.client() as client:
            client.hset(NAMES.ledger, "settled", 0)
        assert (await replica.call() == "allowed") is not broken


@pytest.mark.parametrize("broken", [False, True])
async def test_a_word_by_the_time_of_a_store_that_lies(
    store: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, broken: bool
) -> None:
    if broken:
        monkeypatch.setattr(resuming, "SKEW_SECONDS", float("inf"))
        monkeypatch.setattr(resuming, "_FOLLOW_SECONDS", 0.0)
    lying = LyingStore(store.socket, store.socket.parent / "lie.sock")
    late = b"%d" % (time.time() + 3 * HOUR)
    lying.lie = lambda command, answer: [late, b"0"] if command[0].upper() == b"TIME" else answer
    workspace = publisher(tmp_path / "desk", store)
    workspace.config_file.write_text(workspace.config_file.read_text().replace(store.url, lying.url))
    async with lying.serving(), asyncio.timeout(60):
        resuming_now = asyncio.to_thread(resume_uses, workspace, by="cli:op", reason="x")
        if broken:
            await resuming_now  # nobody is on the roster, so nobody says that it is not followed
        else:
            with pytest.raises(StoreError, match="differ by"):
                await resuming_now
    with store.client() as client:
        assert bool(client.exists(NAMES.ledger)) is broken


async def test_words_of_others_that_are_always_later_end_the_command(
    store: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else signs at the same time, again and again."""
    clock = iter(range(1, 10**6))
    monkeypatch.setattr(resuming, "_at", lambda *_: time.time() + next(clock))
    with pytest.raises(StoreError, match="3 new counts were signed"):
        await asyncio.wait_for(
            asyncio.to_thread(resume_uses, publisher(tmp_path / "desk", store), by="cli:op", reason="x"), 60
        )
