"""What somebody with a replica's password puts into the store: one part stands still and says so, the rest goes on."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from cloned_proxy.fleet.link.link import Link
from cloned_proxy.fleet.members import roster
from cloned_proxy.fleet.members.roster import everybody, read_report
from cloned_proxy.fleet.signed.errors import StoreAwayError, StoreRefusedError
from cloned_proxy.fleet.signed.keys import SigningKey
from cloned_proxy.fleet.signed_policy import store_source
from cloned_proxy.store.settings.fleet_settings import FleetSettings
from tests.fleet.conftest import RedisServer
from tests.fleet.counting import until
from tests.fleet.replicas import NAMES, Replica, policy_for, publish, put_into

KEY = SigningKey.generate()

type Start = Callable[..., Awaitable[Replica]]


@pytest.fixture
async def start(store: RedisServer, tmp_path: Path) -> AsyncIterator[Start]:
    started: list[Replica] = []

    async def begin(name: str = "r1", **more: Any) -> Replica:
        replica = Replica(tmp_path / name, store=store.url, trust=[KEY.public], replica=name, poll="1s", **more)
        started.append(replica)
        return await replica.start()

    yield begin
    for replica in started:
        await replica.stop()


def problem_of(client: redis.Redis) -> str:
    """Of the one replica, as the roster has it; "" before it is there, or has none."""
    report: dict[str, str] = json.loads(client.hget(NAMES.replicas, "r1/0") or b"{}")
    return report.get("problem", "")


async def test_a_policy_of_a_wrong_type_keeps_the_link_up_and_is_told_until_it_is_mended(
    start: Start, store: RedisServer
) -> None:
    put_into(store, policy_for("a.example"), 1, KEY)
    with store.client() as client:
        right = client.dump(NAMES.policy)
        client.delete(NAMES.policy)
        client.set(NAMES.policy, "x")
        replica = await start()
        link = replica.policy.source._link
        await replica.until(lambda: link.connected)
        await replica.until(lambda: replica.metric("store_fault", part="policy") == 1)
        assert not replica.policy.source.connected
        assert "WRONGTYPE" in replica.policy.source.problem
        # What else is in the store goes on: it is on the roster, with what is wrong.
        await replica.until(lambda: "WRONGTYPE" in problem_of(client))
        client.delete(NAMES.policy)
        client.restore(NAMES.policy, 0, right)
        await replica.until_version(1)
        await replica.until(lambda: replica.metric("store_fault", part="policy") == 0)
        assert replica.policy.source.connected


async def test_a_roster_of_a_wrong_type_costs_the_roster_alone(start: Start, store: RedisServer) -> None:
    with store.client() as client:
        client.lpush(NAMES.replicas, "x")
        replica = await start()
        await replica.until(lambda: replica.metric("store_fault", part="replicas") == 1)
        put_into(store, policy_for("a.example"), 1, KEY)
        await replica.until_version(1)
        assert replica.allows("a.example")


async def test_a_part_that_cannot_be_used_at_the_connect_holds_up_no_other(store: RedisServer, tmp_path: Path) -> None:
    settings = FleetSettings(name="acme", store=store.url, trust=[KEY.public])
    done: list[str] = []
    async with Link(settings, base=tmp_path) as link:
        link.follow("news", lambda _message: None)

        async def broken() -> None:
            with link.parts.part("uses", "wrong"):
                await link.run(lambda redis: redis.hget("wrong", "x"))

        async def whole() -> None:
            done.append("whole")

        link.at_connect(broken)
        link.at_connect(whole)
        with store.client() as client:
            client.set("wrong", "x")
        link.start()
        await until(lambda: link.connected)
        assert done == ["whole"]
        assert "WRONGTYPE" in link.parts.faults["uses"]
        with pytest.raises(StoreRefusedError):
            await link.run(lambda redis: redis.hget("wrong", "x"))
        with store.client() as client:
            client.delete("wrong")
        await broken()
        assert link.parts.faults == {}


async def test_news_that_could_not_be_read_is_read_again(
    start: Start, store: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection stands, and one call failed: nobody announces the policy a second time."""
    put_into(store, policy_for("a.example"), 1, KEY)
    replica = await start(name="r2")
    await replica.until_version(1)
    source = replica.policy.source
    source._poll = 3600.0
    monkeypatch.setattr(store_source, "again_seconds", lambda: 0.01)
    read, failed = source._read, 0
    put_into(store, policy_for("a.example"), 1, KEY)  # ends the wait that began with the shorter poll

    async def failing() -> None:
        nonlocal failed
        failed += 1
        if failed <= 2:
            raise StoreAwayError("no answer in time") if failed == 1 else RuntimeError("an answer that breaks it")
        await read()

    monkeypatch.setattr(source, "_read", failing)
    put_into(store, policy_for("b.example"), 2, KEY)
    await replica.until_version(2)
    assert failed >= 3


def report(**more: Any) -> bytes:
    return json.dumps({"replica": "ghost", "worker": 0, "epoch": 1, "version": 1, **more}).encode()


@pytest.mark.parametrize("broken", [False, True])
async def test_phantoms_are_no_replicas_and_leave_the_roster(
    start: Start, store: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, broken: bool
) -> None:
    """Reports from a time that is yet to come would be live for ever, and the newest of all that are listed."""
    if broken:
        for script, guard, without in (
            ("_LIST", "KEYS[2], now, now - ARGV[1]", "KEYS[2], '+inf', now - ARGV[1]"),
            ("_SAY", "{'(' .. now, '+inf'}", "{'+inf', '-inf'}"),
        ):
            text = getattr(roster, script)
            assert guard in text
            monkeypatch.setattr(roster, script, text.replace(guard, without))
    now = int(time.time())
    with store.client() as client:
        for name, seen in [("inf", "inf"), ("later", now + 500), ("minus", "-inf"), ("here", now)]:
            client.hset(NAMES.replicas, name, report(replica=name))
            client.zadd(NAMES.replicas_seen, {name: seen})
        client.hset(NAMES.replicas, "large", report(problem="x" * 5000))
        client.zadd(NAMES.replicas_seen, {"large": now})
        settings = FleetSettings(name="acme", store=store.url, trust=[KEY.public])
        async with Link(settings, base=tmp_path) as link:
            found = {each.report.replica for each in await everybody(link, NAMES)}
            assert found == ({"here", "inf", "later"} if broken else {"here"})
        replica = await start()
        await replica.until(lambda: client.zscore(NAMES.replicas_seen, "r1/0") is not None)
        left = {name.decode() for name in client.zrange(NAMES.replicas_seen, 0, -1)}
        assert left == {"here", "large", "r1/0"} | ({"inf", "later"} if broken else set())


@pytest.mark.parametrize(
    "more",
    [
        {"version": "0_7"},
        {"version": "7"},
        {"version": 7.0},
        {"epoch": True},
        {"tunnels": 1.5},
        {"tunnels": -1},
        {"tunnels": float("inf")},
        {"age": -1.0},
        {"age": "1"},
        {"age": float("nan")},
        {"denying": "no"},
        {"denying": 1},
        {"trust": [1]},
        {"trust": 7},
        {"trust": ["k"] * 33},
        {"trust": ["\n"]},
        {"problem": "a\nb"},
        {"replica": ""},
        {"since": None},
    ],
)
def test_what_is_no_report(more: dict[str, Any]) -> None:
    assert read_report(report()) is not None
    assert read_report(report(**more)) is None


@pytest.mark.parametrize("version", ["0_7", " 7", "x", "7" * 400, ""])
async def test_a_number_that_is_none_in_the_store_keeps_nobody_from_publishing(
    store: RedisServer, tmp_path: Path, version: str
) -> None:
    await publish(store.url, KEY, policy_for("a.example"), tmp_path, wait=0)
    with store.client() as client:
        client.hset(NAMES.policy, "version", version)
        published = await publish(store.url, KEY, policy_for("b.example"), tmp_path, wait=0)
        assert str(published.number) == "1.2"
        assert client.hget(NAMES.policy, "version") == b"2"


async def test_a_policy_that_is_too_large_to_be_read_is_told_everywhere_and_nothing_else_stops(
    start: Start, store: RedisServer
) -> None:
    """Else whoever holds a store's password ends revocation, and every replica looks well."""
    put_into(store, policy_for("a.example"), 1, KEY)
    replica = await start()
    await replica.until_version(1)
    with store.client() as client:
        client.hset(NAMES.policy, mapping={"version": "2", "sha256": b"x" * 2_000_000})
        client.publish(NAMES.policy_news, "1.2")
        await replica.until(lambda: replica.metric("store_fault", part="policy") == 1)
        assert replica.metric("refused_total", reason="format")
        assert "too large" in str(replica.policy.last_error)
        assert NAMES.policy in replica.policy.source.problem
        assert not replica.policy.source.connected
        assert replica.policy.source._link.connected
        await replica.until(lambda: "too large" in problem_of(client))
        assert replica.allows("a.example")
        client.delete(NAMES.policy)
        put_into(store, policy_for("b.example"), 3, KEY)
        await replica.until_version(3)
        await replica.until(lambda: replica.metric("store_fault", part="policy") == 0)
        assert replica.policy.last_error is None


@pytest.mark.parametrize("part", ["requests", "uses"])
async def test_what_is_too_large_in_one_part_at_the_connect_holds_up_no_other(
    store: RedisServer, tmp_path: Path, part: str
) -> None:
    settings = FleetSettings(name="acme", store=store.url, trust=[KEY.public])
    done: list[object] = []
    async with Link(settings, base=tmp_path) as link:
        link.follow("news", lambda _message: None)

        async def large() -> None:
            with link.parts.part(part, "large"):
                await link.run(lambda redis: redis.get("large"))

        async def whole() -> None:
            done.append(await link.run(lambda redis: redis.get("small")))

        link.at_connect(large)
        link.at_connect(whole)
        with store.client() as client:
            client.mset({"large": b"x" * 2_000_000, "small": b"y"})
        link.start()
        await until(lambda: link.connected)
        assert done == [b"y"]
        assert link.parts.faults[part].endswith("(large)")


async def test_a_key_that_is_well_hides_none_that_is_not(store: RedisServer, tmp_path: Path) -> None:
    settings = FleetSettings(name="acme", store=store.url, trust=[KEY.public])
    told: list[str] = []
    async with Link(settings, base=tmp_path) as link:
        link.parts.on_fault = lambda _part, reason: told.append(reason)
        with store.client() as client:
            client.set("wrong", "x")
        for key in ("wrong", "well", "wrong"):
            with suppress(StoreRefusedError), link.parts.part("limits", key):
                await link.run(lambda redis, key=key: redis.hget(key, "x"))  # type: ignore[misc]
        assert len(told) == 1
