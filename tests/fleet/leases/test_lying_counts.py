"""A store that lies about how many uses of a lease are taken gives none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloned_proxy.fleet.leases.use_scripts import TAKE
from tests.fleet.conftest import RedisServer
from tests.fleet.counting import Canary, Replica, begin_count, policy, serving
from tests.fleet.lying import LyingStore, runs

USES = 3


@pytest.fixture
def canary() -> Iterator[Canary]:
    with Canary() as counting:
        yield counting


@pytest.mark.parametrize("number", [0, USES + 1, 10**30])
async def test_a_use_that_there_is_not_is_not_given(
    store: RedisServer, canary: Canary, tmp_path: Path, number: int
) -> None:
    assert begin_count(store.url)
    async with LyingStore(store.socket, store.socket.with_name("liar")).serving() as liar:
        replica = Replica("r", liar.url, tmp_path / "r", policy(canary.port, uses=USES), begins=False)
        liar.lie = lambda command, true: [b"taken", b"%d" % number, true[2]] if runs(command, TAKE) else true
        async with serving(replica):
            assert await replica.call() == "store_unavailable"
            assert "more uses are taken than there are" in replica.uses.problem
            assert canary.arrivals == []
            liar.lie = None
            assert await replica.call() == "allowed"
    assert len(canary.arrivals) == 1
