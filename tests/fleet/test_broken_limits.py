"""The attacks on limits, leases and approvals of a fleet succeed against builds whose guard was taken out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloned_proxy.fleet.approvals import decision_reader as reader_module
from cloned_proxy.fleet.approvals.decision import FleetDecision, read_decision, seal_decision
from cloned_proxy.fleet.approvals.requests import FleetRequests
from cloned_proxy.fleet.leases import uses as uses_module
from cloned_proxy.fleet.leases.counted_audit import CountedAudit
from cloned_proxy.fleet.link.parts import Parts
from cloned_proxy.fleet.signed.envelope import Trust
from cloned_proxy.fleet.signed.keys import SigningKey
from cloned_proxy.policy.model.model import Limits
from cloned_proxy.proxy.grants.budget import WholeLimits
from tests.fleet.approvals.desk import DECISION, FLEET, TRUST
from tests.fleet.conftest import RedisServer
from tests.fleet.counting import Canary, Replica, policy, serving

CALLS = 8


@pytest.fixture
def canary() -> Iterator[Canary]:
    with Canary() as counting:
        yield counting


async def passed_by_two(store: RedisServer, canary: Canary, tmp_path: Path, **what: Any) -> int:
    """Bytes that reach the canary through two replicas which call as often as they can."""
    current = policy(canary.port, **what)
    replicas = [Replica(name, store.url, tmp_path / name, current) for name in ("one", "two")]
    async with serving(*replicas):
        for replica in replicas:
            for _ in range(CALLS):
                await replica.call()
    return len(canary.arrivals)


@pytest.mark.parametrize("broken", [False, True])
async def test_uses_that_each_replica_counts_by_itself(
    store: RedisServer, canary: Canary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, broken: bool
) -> None:
    if broken:

        async def commit(self: CountedAudit, event: Any, **more: Any) -> None:
            await self._inner.commit(event, **more)

        monkeypatch.setattr(CountedAudit, "commit", commit)
    assert await passed_by_two(store, canary, tmp_path, uses=3) == (6 if broken else 3)


@pytest.mark.parametrize("broken", [False, True])
async def test_a_count_that_another_server_is_believed_to_have_whole(
    store: RedisServer, canary: Canary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, broken: bool
) -> None:
    """The store comes back from a file that is older than a replica which took uses, and is gone."""
    if broken:
        for name in ("JOIN", "TAKE"):
            script = getattr(uses_module, name)
            monkeypatch.setattr(uses_module, name, script.replace("~= run_id()", "== ''"))
    current = policy(canary.port, uses=5)
    one, gone = (Replica(name, store.url, tmp_path / name, current) for name in ("one", "gone"))
    async with serving(one):
        with store.client() as client:
            client.save()
        async with serving(gone):
            assert [await gone.call() for _ in range(3)] == ["allowed"] * 3
        store.restart()
        async with asyncio.timeout(60):
            while not (one.link.connected and "socket" not in one.uses.problem):
                await one.call()
        for _ in range(CALLS):
            await one.call()
    assert len(canary.arrivals) == (8 if broken else 3)


@pytest.mark.parametrize("broken", [False, True])
async def test_limits_that_each_replica_takes_for_its_own(
    store: RedisServer, canary: Canary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, broken: bool
) -> None:
    if broken:
        monkeypatch.setattr("cloned_proxy.proxy.replica.shares.Shares.limits_of", WholeLimits.limits_of)
    passed = await passed_by_two(store, canary, tmp_path, limits=Limits(requests_per_minute=3))
    assert passed == 6 if broken else passed <= 3


@pytest.mark.parametrize("broken", [False, True])
async def test_a_decision_whose_signature_nobody_checks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, broken: bool
) -> None:
    """A decision of a stranger comes in force in the build that does not check, and in ours it does not."""
    stranger = SigningKey.generate()
    if broken:

        def unchecked(raw: bytes, trust: Trust, fleet: str, request: str) -> FleetDecision:
            return read_decision(raw, Trust([stranger.public]), fleet, request)

        monkeypatch.setattr(reader_module, "read_decision", unchecked)
    now = time.time()
    decision = replace(DECISION, decided=now, ends=now + 60)
    granted: list[object] = []
    requests = FleetRequests(
        Telling(decision, stranger),  # type: ignore[arg-type]  # the store that lies
        FLEET,
        "one",
        trust=TRUST,
        mirror=None,  # type: ignore[arg-type]  # a worker that does not lead keeps none
        on_change=granted.append,
        clock=time.time,
        uptime=time.monotonic,
        leads=False,
    )
    await requests.read()
    assert bool(granted) is broken


class Telling:
    """A labelled stand-in: what a store that lies would answer."""

    def __init__(self, decision: FleetDecision, key: SigningKey) -> None:
        self.parts = Parts()
        now = int(time.time() * 1000)
        self._answer = [now, 0, decision.request.encode(), b"{}", 60_000, seal_decision(decision, key)]

    def follow(self, *_: object) -> None: ...

    def at_connect(self, *_: object) -> None: ...

    async def run(self, _work: object, **_: object) -> list[object]:
        await asyncio.sleep(0)
        return list(self._answer)
