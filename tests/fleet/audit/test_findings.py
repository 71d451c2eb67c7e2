"""A store that is full of logs and entries which nobody has sent: people get a few lines of it, real logs first."""

from __future__ import annotations

import json

import pytest

from cloned_proxy.fleet.audit import findings
from cloned_proxy.fleet.audit.audit_read import FleetLog
from cloned_proxy.fleet.audit.findings import Findings
from cloned_proxy.fleet.audit.receipt import own_key
from cloned_proxy.fleet.signed.keys import SigningKey
from tests.fleet.audit.shipping import NAMES, Replica, read
from tests.fleet.conftest import RedisServer

MADE_UP = 200
"""Logs, and entries in each of some of them."""


def fill(store: RedisServer) -> None:
    """As whoever has a replica's password may; the made-up logs lie before every real one."""
    key = SigningKey.generate().public
    with store.client() as client, client.pipeline() as all_of_it:
        for number in range(MADE_UP):
            all_of_it.hset(NAMES.audit_logs, f"-{number}", "nobody's")
            all_of_it.hset(NAMES.audit_logs, f"0{number}", json.dumps({"replica": f"r{number}", "key": key}))
            all_of_it.xadd(NAMES.audit("00"), {"hash": "", "body": "made up"}, f"{number + 1}-0")
        all_of_it.execute()


def damage(store: RedisServer, log: str) -> None:
    with store.client() as client:
        ((last, _),) = client.xrevrange(NAMES.audit(log), count=1)
        client.delete(NAMES.audit(log))
        client.xadd(NAMES.audit(log), {"hash": "", "entries": "made up"}, last)


@pytest.mark.parametrize("broken", [False, True])
async def test_what_nobody_has_sent_is_counted_and_hides_no_fault_of_a_real_log(
    replica: Replica, store: RedisServer, monkeypatch: pytest.MonkeyPatch, *, broken: bool
) -> None:
    if broken:
        monkeypatch.setattr(findings, "_NAMED", 10**9)
        monkeypatch.setattr(findings, "_LOGS", 10**9)
    replica.record(1000, 1001)
    assert replica.notary.sign() is not None
    assert await replica.shipper.ship()
    damage(store, replica.shipper._id)
    fill(store)
    key = own_key(replica.workspace)
    _, lines = await read(replica, key.public)
    assert lines[0] == f"r1 ({key.id[:12]}): what lies under entry 2 cannot be read: it was changed"
    if broken:
        assert len(lines) > 3 * MADE_UP
        return
    assert len(lines) < 60
    *_, rest = lines
    assert rest.startswith(f"{2 * MADE_UP - 20} more logs have "), rest


async def test_a_log_that_proves_nothing_is_doubted_once(replica: Replica, store: RedisServer) -> None:
    """`log -f --fleet` reads twice a second."""
    replica.record(1000)
    assert await replica.shipper.ship()
    with store.client() as client:
        client.hset(NAMES.audit_logs, "nobody", "?")
    key = own_key(replica.workspace)
    log = FleetLog(replica.link, NAMES, [key.public])
    await log.read()
    assert log.findings.lines() == [
        f"r1 ({key.id[:12]}): no receipt of a key that was named: nothing shows that a replica has sent this",
        "log nobody: the store does not say whose it is",
    ]
    log.findings.clear()
    await log.read()
    assert log.findings.lines() == []


def test_what_is_alike_is_counted() -> None:
    found = Findings()
    for number in range(1005):
        found.add("r1", f"entry {number}")
    assert found.lines() == [*(f"r1: entry {number}" for number in range(5)), "r1: and 1,000 more like those"]
    found.clear()
    assert found.lines() == []
