"""A store that lies to the share script: what it never answers is not kept, and no request asks without end."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import pytest

from cloned_proxy.fleet.shares.share_script import SHARE
from cloned_proxy.policy.model.model import Limits
from tests.fleet.conftest import RedisServer
from tests.fleet.counting import TOOL, Canary, Replica, policy, serving
from tests.fleet.lying import LyingStore, runs


@pytest.mark.parametrize(
    "made_up",
    [
        [40, 0, 0, 2**63, 0, 1, b"data"],  # one number more is where the share's end stands
        [40, 0, 0, 1],
        [40, 0, 0, b"1", b"data"],
        b"hello",
    ],
)
async def test_an_answer_of_another_form_is_none(store: RedisServer, tmp_path: Path, made_up: Any) -> None:
    with Canary() as canary:
        current = policy(canary.port, limits=Limits(requests_per_minute=40))
        async with LyingStore(store.socket, store.socket.with_name("liar")).serving() as liar:
            liar.lie = lambda command, answer: made_up if runs(command, SHARE) else answer
            replica = Replica("one", liar.url, tmp_path / "one", current, on_store_loss="deny", begins=False)
            async with serving(replica):
                assert await replica.call() == "limit_exceeded"
                share = replica.shares._shares[TOOL]
                assert not any(share.parts)
                assert not share.ends
                await replica.stop()
        assert not canary.arrivals


async def test_a_share_that_grows_and_grows_and_is_of_no_use_is_asked_for_a_few_times(
    store: RedisServer, tmp_path: Path
) -> None:
    asked = count()
    with Canary() as canary:
        current = policy(canary.port, limits=Limits(requests_per_minute=40, bytes_per_hour=10**12))
        async with LyingStore(store.socket, store.socket.with_name("liar")).serving() as liar:
            liar.lie = lambda command, true: [0, next(asked) * 1000, 0, 2, true[-1]] if runs(command, SHARE) else true
            replica = Replica("one", liar.url, tmp_path / "one", current, on_store_loss="deny", begins=False)
            async with serving(replica):
                assert await replica.call() == "limit_exceeded"
        assert not canary.arrivals
    assert 2 <= next(asked) < 50
