from __future__ import annotations

import time
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from cloned_proxy.proxy.enforce.follower import PolicyFollower
from cloned_proxy.proxy.upstream.resolver import Resolver
from cloned_proxy.store.audit.audit_log import AuditLog
from cloned_proxy.store.audit.state import State
from cloned_proxy.store.settings.config import AuditSettings, ProxySettings
from cloned_proxy.telemetry.metrics import Metrics


async def test_a_change_is_on_record_whatever_the_sweep_stumbles_over(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("version: 1\n")
    path.chmod(0o600)
    state = State(tmp_path / "state.db", AuditSettings())
    metrics, resolver = Metrics(CollectorRegistry()), Resolver(ProxySettings())
    follower = PolicyFollower(path, state=state, metrics=metrics, resolver=resolver, clock=time.time)

    def stumble() -> None:
        raise RuntimeError("broken on purpose")

    await follower.start(stumble)
    try:
        path.write_text("version: 1\nglobal:\n  allow: [a.example]\n")
        with pytest.raises(RuntimeError):
            await follower.live.reload()
    finally:
        await follower.stop()
        state.close()
    with AuditLog(tmp_path / "state.db") as log:
        assert [entry.body["action"] for entry in log.entries(types=("policy",))] == ["reload", "reload"]
