"""What looks after the age of a fleet's policy goes on, whatever breaks beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloned_proxy.fleet.signed.keys import SigningKey
from tests.fleet.conftest import RedisServer
from tests.fleet.replicas import Replica, policy_for, put_into

KEY = SigningKey.generate()


async def test_max_staleness_holds_on_where_a_note_cannot_even_be_begun(
    store: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the system gives no thread any more: no error of a disk."""
    put_into(store, policy_for("a.example"), 1, KEY)
    replica = await Replica(tmp_path / "a", store=store.url, trust=[KEY.public], poll="1s", max_staleness="2s").start()
    tried = []

    async def no_thread() -> None:
        tried.append(True)
        raise RuntimeError("can't start new thread")

    try:
        await replica.until_version(1)
        monkeypatch.setattr(replica.policy._heard, "note", no_thread)
        await replica.until(lambda: tried)
        store.kill()
        await replica.until(lambda: replica.policy.denying)
        assert not replica.allows("a.example")
    finally:
        await replica.stop()
