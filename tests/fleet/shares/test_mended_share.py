"""The hash of a tool's shares was of another type and was mended: that is told though nobody asks for the tool."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloned_proxy.policy.model.model import Limits
from cloned_proxy.proxy.replica import shares as shares_module
from tests.fleet.conftest import RedisServer
from tests.fleet.counting import TOOL, Canary, Replica, policy, serving, until
from tests.fleet.shares.test_shares import NAMES


async def test_a_share_that_somebody_mends_is_told_to_be_well(
    store: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shares_module, "_MENDED_SECONDS", 0.1)
    with Canary() as canary, store.client() as client:
        client.set(NAMES.shares(TOOL), "x")
        current = policy(canary.port, limits=Limits(requests_per_minute=40))
        replica = Replica("one", store.url, tmp_path / "one", current)
        async with serving(replica):
            assert await replica.call() == "limit_exceeded"
            assert "limits" in replica.link.parts.faults
            client.delete(NAMES.shares(TOOL))
            await until(lambda: "limits" not in replica.link.parts.faults)
