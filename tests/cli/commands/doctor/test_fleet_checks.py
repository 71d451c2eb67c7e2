"""`doctor` on a fleet: each line as it is where all is well, and what it says of each fault, with the fix."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cloned_proxy.cli.commands.doctor.checks import Check, _policy
from cloned_proxy.cli.commands.doctor.fleet_checks import fleet_checks
from cloned_proxy.fleet.leases.use_names import UseNames
from cloned_proxy.fleet.signed.keys import SigningKey
from cloned_proxy.fleet.signed_policy.kept import Shelf
from cloned_proxy.store.leases.deadline import uptime
from cloned_proxy.store.workspaces.workspace import Workspace
from tests.fleet.conftest import RedisServer, redis_directory, store  # noqa: F401  fixtures
from tests.fleet.counting import begin_count
from tests.fleet.replicas import Replica, policy_for, put_into

PASSWORD = "hunter2hunter2"


@pytest.fixture
def key() -> SigningKey:
    return SigningKey.generate()


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path / "ws")
    workspace.create()
    return workspace


def settle(place: Workspace, key: SigningKey, policy: str | None = None, **more: Any) -> None:
    settings = {"name": "acme", "trust": [key.public], "replica": "r1"} | more
    place.config_file.write_text(yaml.safe_dump({"fleet": settings, "policy": policy}))
    place.config_file.chmod(0o600)


def checks(place: Workspace) -> dict[str, Check]:
    return {check.name: check for check in fleet_checks(place, None)}


def has_run(place: Workspace, store_url: str, key: SigningKey, version: int) -> None:
    """A replica was here, and had this version in force."""

    async def run() -> None:
        replica = Replica(place.root, store=store_url, trust=[key.public])
        await replica.start()
        await replica.until_version(version)
        await replica.stop()

    asyncio.run(run())


def test_without_a_fleet_there_is_no_line(place: Workspace) -> None:
    assert fleet_checks(place, None) == []


def test_all_is_well_on_a_replica_and_where_the_key_is(
    place: Workspace,
    key: SigningKey,
    store: RedisServer,  # noqa: F811
) -> None:
    put_into(store, policy_for("a.example"), 4, key)
    assert begin_count(store.url, key)
    has_run(place, store.url, key, 4)
    settle(place, key, store=store.url, local="narrow")
    place.policy_file.write_bytes(policy_for("a.example"))
    with store.client() as client:
        before = client.keys("*")
        found = checks(place)
        assert sorted(client.keys("*")) == sorted(before), "doctor changes nothing"
    assert {check.status for check in found.values()} == {"ok"}, found
    assert "answers in" in found["fleet store"].detail
    assert "version 1.4" in found["fleet policy"].detail
    assert "the store has the same" in found["fleet policy"].detail
    assert "replica.key: private" in found["fleet key"].detail
    assert "1 rules" in found["fleet local"].detail

    place.fleet_key.write_bytes(key.pem())
    place.fleet_key.chmod(0o600)
    published = checks(place)
    assert published["fleet"].detail.endswith("publishes")
    assert key.public in published["fleet key"].detail
    said = "".join(f"{check}" for check in published.values())
    assert not [line for line in key.pem().decode().splitlines() if line in said]


def away(place: Workspace, key: SigningKey, store: RedisServer) -> None:  # noqa: F811
    put_into(store, policy_for("a.example"), 4, key)
    has_run(place, store.url, key, 4)
    settle(place, key, store=store.url)
    store.kill()


def no_writes(place: Workspace, key: SigningKey, store: RedisServer) -> None:  # noqa: F811
    settle(place, key, store=store.url)
    with store.client() as client:
        client.config_set("min-replicas-to-write", 1)


def password(place: Workspace, key: SigningKey, store: RedisServer) -> None:  # noqa: F811
    settle(place, key, store=store.url)
    with store.client() as client:
        client.config_set("requirepass", PASSWORD)


def no_right(place: Workspace, key: SigningKey, store: RedisServer) -> None:  # noqa: F811
    settle(place, key, store=store.url)
    with store.client() as client:
        client.execute_command("ACL", "SETUSER", "default", "-hdel")


def no_followers(place: Workspace, key: SigningKey, store: RedisServer) -> None:  # noqa: F811
    settle(place, key, store=store.url, acknowledged_by=1)


def open_key(place: Workspace, key: SigningKey, store: RedisServer) -> None:  # noqa: F811
    settle(place, key, store=store.url)
    place.fleet_key.write_bytes(key.pem())
    place.fleet_key.chmod(0o644)


def strange_key(place: Workspace, key: SigningKey, store: RedisServer) -> None:  # noqa: F811
    settle(place, key, store=store.url)
    place.fleet_key.write_bytes(SigningKey.generate().pem())
    place.fleet_key.chmod(0o600)


def nothing_came(place: Workspace, key: SigningKey, store: RedisServer) -> None:  # noqa: F811
    settle(place, key, store=store.url)


def forgotten_uses(place: Workspace, key: SigningKey, store: RedisServer) -> None:  # noqa: F811
    settle(place, key, store=store.url)
    assert begin_count(store.url, key)
    with store.client() as client:
        client.hset(UseNames("acme").ledger, "run", "another server")


def behind(place: Workspace, key: SigningKey, store: RedisServer) -> None:  # noqa: F811
    put_into(store, policy_for("a.example"), 4, key)
    has_run(place, store.url, key, 4)
    settle(place, key, store=store.url)
    put_into(store, policy_for("b.example"), 5, key)


def lost(place: Workspace, key: SigningKey, store: RedisServer) -> None:  # noqa: F811
    put_into(store, policy_for("a.example"), 4, key)
    has_run(place, store.url, key, 4)
    settle(place, key, store=store.url)
    store.restart()


def not_trusted(place: Workspace, key: SigningKey, store: RedisServer) -> None:  # noqa: F811
    put_into(store, policy_for("a.example"), 4, key)
    has_run(place, store.url, key, 4)
    settle(place, SigningKey.generate(), store=store.url)


def wide(place: Workspace, key: SigningKey, store: RedisServer) -> None:  # noqa: F811
    settle(place, key, store=store.url, local="narrow")
    place.policy_file.write_text("version: 1\nmode: report\n")


def no_file(place: Workspace, key: SigningKey, store: RedisServer) -> None:  # noqa: F811
    settle(place, key, policy="policy.dsse.json")


type Make = Callable[[Workspace, SigningKey, RedisServer], None]

FAULTS: list[tuple[Make, str, str, str, str]] = [
    (away, "fleet store", "fail", "unix://", "see that it runs"),
    (no_writes, "fleet store", "fail", "the store refuses", "its log says why"),
    (password, "fleet store", "fail", "credential", "vault set fleet.store"),
    (no_right, "fleet store", "fail", "ACL", "ACL"),
    (no_followers, "fleet store", "fail", "0 of its followers acknowledge, `acknowledged_by` wants 1", "followers"),
    (forgotten_uses, "fleet uses", "warn", "another server answers than the one that counted", "fleet resume"),
    (open_key, "fleet key", "fail", "fleet.key", "chmod 600"),
    (strange_key, "fleet key", "warn", "`trust:` does not name it", "add it to `trust:`"),
    (nothing_came, "fleet policy", "warn", "denies everything", "fleet publish"),
    (behind, "fleet policy", "warn", "1.5 is the newest", "start `serve`"),
    (lost, "fleet policy", "warn", "the store has lost it", "--new-epoch"),
    (not_trusted, "fleet policy", "fail", "", "trust"),
    (wide, "fleet local", "fail", "report mode narrows nothing", "take it out"),
    (no_file, "fleet source", "fail", "does not exist", "fleet publish"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault[0].__name__)
def test_a_fault_is_named_with_its_fix(
    place: Workspace,
    key: SigningKey,
    store: RedisServer,  # noqa: F811
    fault: tuple[Make, str, str, str, str],
) -> None:
    make, name, status, detail, fix = fault
    make(place, key, store)
    found = checks(place)[name]
    assert found.status == status, found
    assert detail in found.detail
    assert fix in found.fix
    assert PASSWORD not in str(found)


def test_without_its_store_the_last_word_of_it_is_told_and_how_old_it_may_be(
    place: Workspace,
    key: SigningKey,
    store: RedisServer,  # noqa: F811
) -> None:
    away(place, key, store)
    Shelf(place).heard(now=time.time(), up=uptime() - 90)
    assert re.search(r"confirmed 1m 3\ds ago", checks(place)["fleet policy"].detail)
    settle(place, key, store=store.url, max_staleness="60s")
    found = checks(place)["fleet policy"]
    assert found.status == "fail"
    assert "everything is denied" in found.detail


def test_a_clock_that_is_an_hour_off_is_told(
    place: Workspace,
    key: SigningKey,
    store: RedisServer,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settle(place, key, store=store.url)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3600)
    found = checks(place)["fleet clock"]
    assert (found.status, found.detail.startswith("3600.")) == ("warn", True)
    assert "ahead of" in found.detail
    assert "set-ntp" in found.fix


def test_without_the_libraries_the_extra_is_named(
    place: Workspace, key: SigningKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(place, key, store="redis://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "securesystemslib.dsse", None)
    (found,) = fleet_checks(place, None)
    assert (found.status, found.fix) == ("fail", "pip install 'cloned-proxy[fleet]'")


@pytest.mark.parametrize("source", ["store", "file"])
def test_no_policy_file_is_missed_where_the_policy_is_the_fleets(
    place: Workspace, key: SigningKey, source: str
) -> None:
    """Neither before the first policy has come, nor where it comes as a file that is an envelope."""
    if source == "store":
        settle(place, key, store="redis://127.0.0.1:1")
    else:
        settle(place, key, policy="policy.dsse.json")
    check = _policy(place, None)
    assert (check.status, check.detail) == ("ok", "the fleet's, and none has come yet")
    place.config_file.unlink()
    assert _policy(place, None).status == "warn"
