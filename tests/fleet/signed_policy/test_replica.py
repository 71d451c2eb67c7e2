"""What comes in force on a replica: signed, for this fleet, newer than all before, and valid."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from cloned_proxy.fleet.link.link import Link
from cloned_proxy.fleet.operating.publish import PublishConflictError, Publisher
from cloned_proxy.fleet.signed.envelope import Trust, seal
from cloned_proxy.fleet.signed.errors import FleetError
from cloned_proxy.fleet.signed.keys import SigningKey
from cloned_proxy.fleet.signed.statement import PAYLOAD_TYPE, Number
from cloned_proxy.fleet.signed_policy import kept, replica
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.settings.fleet_settings import FleetSettings
from tests.fleet.conftest import RedisServer
from tests.fleet.replicas import NAMES, Replica, envelope, place, policy_for, publish, put_into

KEY, STRANGER = SigningKey.generate(), SigningKey.generate()
type Start = Callable[..., Awaitable[Replica]]


@pytest.fixture
async def start(tmp_path: Path, store: RedisServer) -> AsyncIterator[Start]:
    begun: list[Replica] = []

    async def make(name: str = "a", **settings: Any) -> Replica:
        made = Replica(tmp_path / name, **{"store": store.url, "trust": [KEY.public], "poll": "1s", **settings})
        begun.append(made)
        return await made.start()

    yield make
    for each in begun:
        await each.stop()


async def test_nothing_received_denies_everything_and_the_first_policy_comes_by_itself(
    start: Start, store: RedisServer, tmp_path: Path
) -> None:
    one, two = await start("a"), await start("b")
    assert one.reason("a.example") == "policy_unavailable"
    await one.until(lambda: one.fleet and one.fleet.link and one.fleet.link.connected)
    await two.until(lambda: two.fleet and two.fleet.link and two.fleet.link.connected)
    with store.client() as client:
        await one.until(lambda: client.hlen("cloned:{acme}:replicas") == 2)
    published = await publish(store.url, KEY, policy_for("a.example"), tmp_path, wait=60)
    assert (len(published.in_force), published.behind, str(published.number)) == (2, (), "1.1")
    assert one.allows("a.example")
    assert two.allows("a.example")
    assert one.metric("policy_version") == 1
    assert not one.allows("b.example")


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (envelope(policy_for("evil.example"), 2, STRANGER), "signature"),
        (envelope(policy_for("evil.example"), 2, KEY, fleet="other"), "fleet"),
        (envelope(b"version: 1\nglobal: {allow: ['*']}\n", 2, KEY), "policy"),
        (envelope(policy_for("evil.example"), 2, KEY)[:100], "format"),
        (seal(b'{"fleet": "acme"}', PAYLOAD_TYPE, [KEY]), "format"),
    ],
)
async def test_what_the_store_says_is_believed_only_with_a_signature(
    start: Start, store: RedisServer, raw: bytes, reason: str
) -> None:
    put_into(store, policy_for("a.example"), 1, KEY)
    one = await start()
    await one.until_version(1)
    place(store, raw, 2)
    await one.until_refused(reason)
    assert one.allows("a.example")
    assert not one.allows("evil.example")
    put_into(store, policy_for("b.example"), 3, KEY)
    await one.until_version(3)
    assert one.allows("b.example")


async def test_a_policy_that_differs_from_its_hash_is_refused(start: Start, store: RedisServer) -> None:
    payload = {
        "fleet": "acme", "epoch": 1, "version": 1, "sha256": "0" * 64, "issued_at": "2026-11-28T00:00:00+00:00",
        "author": "me", "reason": "", "presets": {}, "policy": policy_for("evil.example").decode(),
    }  # fmt: skip
    place(store, seal(json.dumps(payload).encode(), PAYLOAD_TYPE, [KEY]), 1)
    one = await start()
    await one.until_refused("hash")
    assert one.reason("evil.example") == "policy_unavailable"


async def test_the_key_of_a_replica_publishes_nothing(start: Start, store: RedisServer) -> None:
    one = await start()
    assert one.fleet is not None
    put_into(store, policy_for("evil.example"), 1, one.fleet.key)
    await one.until_refused("signature")
    assert not one.allows("evil.example")


async def test_an_older_policy_is_refused_for_ever(start: Start, store: RedisServer) -> None:
    put_into(store, policy_for("old.example"), 1, KEY)
    one = await start()
    await one.until_version(1)
    put_into(store, policy_for("new.example"), 2, KEY)
    await one.until_version(2)
    put_into(store, policy_for("old.example"), 1, KEY)
    await one.until_refused("rollback")
    assert not one.allows("old.example")
    await one.stop()
    again = await start()
    await again.until_refused("rollback")
    assert again.policy.number == (1, 2)
    assert not again.allows("old.example")
    place(store, envelope(policy_for("other.example"), 2, KEY), 2)
    await again.until_refused("conflict")
    put_into(store, policy_for("next.example"), 1, KEY, epoch=2)
    await again.until_version(1, epoch=2)


async def test_a_store_that_is_away_or_lost_its_data_opens_and_closes_nothing(start: Start, store: RedisServer) -> None:
    put_into(store, policy_for("a.example"), 1, KEY)
    one = await start()
    await one.until_version(1)
    await asyncio.to_thread(store.kill)
    await one.until(lambda: one.fleet and one.fleet.link and not one.fleet.link.connected)
    assert one.allows("a.example")
    await one.stop()
    two = await start()  # a restart without the store: from the disk
    assert two.allows("a.example")
    await asyncio.to_thread(store.start)
    await two.until(lambda: two.policy.source.problem == "the store has no policy of this fleet; publish one")
    assert two.allows("a.example")
    put_into(store, policy_for("b.example"), 2, KEY)
    await two.until_version(2)


async def test_the_kept_policy_needs_its_signature_at_the_next_start(start: Start, store: RedisServer) -> None:
    put_into(store, policy_for("a.example"), 1, KEY)
    one = await start()
    await one.until_version(1)
    await one.stop()
    await asyncio.to_thread(store.kill)
    two = await start(trust=[STRANGER.public])
    assert two.metric("refused_total", reason="signature") == 1
    assert two.reason("a.example") == "policy_unavailable"


async def test_a_changed_file_on_disk_is_not_believed(start: Start, store: RedisServer) -> None:
    put_into(store, policy_for("a.example"), 1, KEY)
    one = await start()
    await one.until_version(1)
    await one.stop()
    await asyncio.to_thread(store.kill)
    file = one.workspace.fleet_directory / "policy.dsse.json"
    document = json.loads(file.read_text())
    document["envelope"] = envelope(policy_for("evil.example"), 1, STRANGER).decode()
    file.write_text(json.dumps(document))
    two = await start()
    assert two.reason("evil.example") == "policy_unavailable"
    await two.stop()
    file.write_text("{")
    with pytest.raises(FleetError, match="damaged"):
        await start()


async def test_max_staleness_denies_until_the_store_is_heard_again(
    start: Start, store: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica, "_LOOK_SECONDS", 0.02)
    put_into(store, policy_for("a.example"), 1, KEY)
    one = await start(max_staleness="2s")
    await one.until_version(1)
    cut = asyncio.Event()
    one.policy.on_denying = cut.set
    await one.until(lambda: one.allows("a.example"))  # on a busy machine nothing may have been heard for two seconds
    store.freeze()
    # What the store had sent before may be read after the first cut, and is news.
    await one.until(lambda: cut.is_set() and one.reason("a.example") == "policy_unavailable")
    assert "max_staleness" in one.policy.problems()[0]
    store.thaw()
    await one.until(lambda: one.allows("a.example"))
    await one.stop()
    await asyncio.to_thread(store.kill)
    heard = one.workspace.fleet_directory / "heard.json"
    note = json.loads(heard.read_text())
    heard.write_text(json.dumps({**note, "up": note["up"] - 3600}))
    two = await start(max_staleness="2s")  # off for an hour, and the store is away: nobody knows what was taken back
    assert two.reason("a.example") == "policy_unavailable"


async def test_the_clock_of_a_host_accepts_and_refuses_nothing(
    start: Start, store: RedisServer, tmp_path: Path
) -> None:
    put_into(store, policy_for("a.example"), 1, KEY)
    for name, off in (("early", -3600.0), ("late", 3600.0)):
        clock = lambda off=off: time.time() + off  # noqa: E731
        one = Replica(tmp_path / name, clock=clock, store=store.url, trust=[KEY.public], max_staleness="5m")
        await one.start()
        await one.until_version(1)
        assert one.allows("a.example")
        await one.stop()


async def test_a_full_disk_does_not_keep_a_revocation_from_acting(
    start: Start, store: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica, "_LOOK_SECONDS", 0.02)
    put_into(store, policy_for("a.example", "b.example"), 1, KEY)
    one = await start()
    await one.until_version(1)
    before = (one.workspace.fleet_directory / "policy.dsse.json").read_bytes()

    def full(path: Path, data: bytes) -> None:
        raise StoreError(f"{path}: {os.strerror(errno.ENOSPC)}")

    with monkeypatch.context() as disk:
        disk.setattr(kept, "write_atomically", full)
        put_into(store, policy_for("b.example"), 2, KEY)
        await one.until_version(2)
        assert not one.allows("a.example")
        assert "could not be kept" in one.policy.problems()[0]
        assert (one.workspace.fleet_directory / "policy.dsse.json").read_bytes() == before
    await one.until(lambda: not one.policy.problems())
    assert json.loads((one.workspace.fleet_directory / "policy.dsse.json").read_text())["version"] == 2


async def test_two_hundred_publishes_end_with_the_last(start: Start, store: RedisServer, tmp_path: Path) -> None:
    one = await start()
    for number in range(200):
        await publish(store.url, KEY, policy_for(f"h{number}.example"), tmp_path, wait=0)
    await one.until_version(200)
    assert one.allows("h199.example")
    assert not one.allows("h198.example")
    with store.client() as client:
        assert client.hlen("cloned:{acme}:policy:history") == 100


async def test_a_publish_says_that_it_is_done_though_the_store_dies_while_replicas_are_awaited(
    store: RedisServer, tmp_path: Path
) -> None:
    with store.client() as client:
        client.hset(NAMES.replicas, "ghost/0", json.dumps({"replica": "ghost", "worker": 0, "epoch": 0, "version": 0}))
        client.zadd(NAMES.replicas_seen, {"ghost/0": int(time.time())})

        async def die() -> None:
            while not client.exists(NAMES.policy):  # noqa: ASYNC110  what it waits for has no event
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.1)
            store.kill()

        task = asyncio.create_task(die())
        with pytest.raises(FleetError, match=r"^1\.1 is published; who has it is not known"):
            await publish(store.url, KEY, policy_for("a.example"), tmp_path, wait=60)
        await task


async def test_a_publisher_that_was_overtaken_changes_nothing(store: RedisServer, tmp_path: Path) -> None:
    from cloned_proxy.fleet.operating import publish as module  # noqa: PLC0415

    (tmp_path / "x").mkdir()
    await publish(store.url, KEY, policy_for("a.example"), tmp_path)
    original = module.Publisher.newest

    async def late(self: Any) -> Any:
        found = await original(self)
        if not overtaken:
            overtaken.append(True)
            await publish(store.url, KEY, policy_for("first.example"), tmp_path / "x")
        return found

    overtaken: list[bool] = []
    module.Publisher.newest = late  # type: ignore[method-assign]
    try:
        with pytest.raises(PublishConflictError, match="published meanwhile"):
            await publish(store.url, KEY, policy_for("second.example"), tmp_path)
    finally:
        module.Publisher.newest = original  # type: ignore[method-assign]
    with store.client() as client:
        assert client.hget("cloned:{acme}:policy", "version") == b"2"


async def test_what_a_store_has_put_under_another_number_is_not_signed_again(
    store: RedisServer, tmp_path: Path
) -> None:
    for host in ("wide.example", "narrow.example"):
        await publish(store.url, KEY, policy_for(host), tmp_path, wait=0)
    with store.client() as client:
        client.hset(NAMES.policy_history, "1.2", client.hget(NAMES.policy_history, "1.1") or b"")
    settings = FleetSettings(name="acme", store=store.url, trust=[KEY.public])
    async with Link(settings, base=tmp_path) as link:
        publisher = Publisher(
            link, NAMES, fleet="acme", trust=Trust([KEY.public]), keys=[KEY], record=tmp_path / "published.json"
        )
        assert b"wide" in (await publisher.old(Number(1, 1))).policy
        with pytest.raises(FleetError, match=r"has 1\.1 under the number 1\.2"):
            await publisher.old(Number(1, 2))


async def test_a_local_policy_that_is_a_link_to_nowhere_is_no_absence_of_one(start: Start, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(mode=0o700)
    (tmp_path / "a" / "policy.yaml").symlink_to(tmp_path / "unmounted" / "policy.yaml")
    with pytest.raises(StoreError):
        await start(local="narrow")


async def test_a_store_that_lost_its_data_does_not_begin_anew(start: Start, store: RedisServer, tmp_path: Path) -> None:
    one = await start()
    (tmp_path / "elsewhere").mkdir()
    await publish(store.url, KEY, policy_for("a.example"), tmp_path)
    await publish(store.url, KEY, policy_for("b.example"), tmp_path)
    await one.until_version(2)
    with store.client() as client:
        client.flushall()
        assert one.fleet is not None
        assert one.fleet.member is not None
        one.policy.on_state()
        await one.until(lambda: client.hlen("cloned:{acme}:replicas") == 1)
    with pytest.raises(FleetError, match="--new-epoch"):
        await publish(store.url, KEY, policy_for("c.example"), tmp_path / "elsewhere")
    await publish(store.url, KEY, policy_for("c.example"), tmp_path)  # who published before knows the number
    await one.until_version(3)
    await publish(store.url, KEY, policy_for("d.example"), tmp_path / "elsewhere", new_epoch=True)
    await one.until_version(1, epoch=2)


@pytest.mark.parametrize(
    "number",
    [
        {"epoch": 9_007_199_254_740_990, "version": 1},
        {"epoch": 1_000_000, "version": 9},
        {"epoch": 1e300, "version": 1},
        {"epoch": True, "version": 2},
        {"epoch": -1, "version": 1},
        {"epoch": 1, "version": 10**400},
    ],
)
async def test_a_report_that_is_made_up_uses_up_no_numbers_and_keeps_nobody_from_publishing(
    store: RedisServer, tmp_path: Path, number: dict[str, Any]
) -> None:
    await publish(store.url, KEY, policy_for("a.example"), tmp_path, wait=0)
    with store.client() as client:
        client.hset(NAMES.replicas, "ghost/0", json.dumps({"replica": "ghost", "worker": 0, **number}))
        client.zadd(NAMES.replicas_seen, {"ghost/0": int(time.time())})
    published = await publish(store.url, KEY, policy_for("b.example"), tmp_path, wait=0)
    assert str(published.number) == "1.2"
    published = await publish(store.url, KEY, policy_for("c.example"), tmp_path, wait=0, new_epoch=True)
    assert str(published.number) == "2.1"


async def test_a_local_policy_narrows_and_never_widens(start: Start, store: RedisServer, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(mode=0o700)
    local = tmp_path / "a" / "policy.yaml"
    local.write_bytes(policy_for("a.example", "mine.example"))
    put_into(store, policy_for("a.example", "b.example"), 1, KEY)
    one = await start(local="narrow")
    await one.until_version(1)
    assert [one.allows(host) for host in ("a.example", "b.example", "mine.example")] == [True, False, False]
    local.write_bytes(policy_for("b.example"))
    await one.until(lambda: one.allows("b.example"))
    assert not one.allows("a.example")
    local.write_bytes(policy_for("'*'"))
    await one.until(one.policy.problems)
    assert not one.allows("a.example")
    await one.stop()
    ignored = await start()
    await ignored.until_version(1)
    assert [ignored.allows(host) for host in ("a.example", "b.example", "mine.example")] == [True, True, False]


async def test_a_preset_travels_with_the_policy(start: Start, store: RedisServer, tmp_path: Path) -> None:
    preset = b"name: tiny\nabout: x\nsource: https://a.example/\nchecked: 2026-01-01\nallow: [p.example]\n"
    (tmp_path / "a" / "presets").mkdir(parents=True, mode=0o700)
    (tmp_path / "a" / "presets" / "tiny.yaml").write_bytes(preset.replace(b"p.example", b"evil.example"))
    text = b"version: 1\nanonymous: global\nglobal: {use: [tiny]}\n"
    put_into(store, text, 1, KEY, presets={"tiny": preset})
    (tmp_path / "a").chmod(0o700)
    one = await start()
    await one.until_version(1)
    assert one.allows("p.example")
    assert not one.allows("evil.example")


async def test_a_fresh_replica_takes_nothing_older_than_its_floor_though_its_disk_is_empty(
    start: Start, store: RedisServer
) -> None:
    """A store that lies shows a new pod what was signed long ago."""
    put_into(store, policy_for("old.example"), 3, KEY)
    replica = await start(min_version="1.4")
    await replica.until_refused("rollback")
    assert not replica.allows("old.example")
    put_into(store, policy_for("new.example"), 4, KEY)
    await replica.until_version(4)
    assert replica.allows("new.example")


@pytest.mark.parametrize("written", [1.12, "1", "0.1", "1.0", "1_0.2", "-1.2", "1.2 ", "1.\u0663", "9" * 16 + ".1"])
def test_a_floor_that_is_no_number_of_a_policy(written: object) -> None:
    with pytest.raises(ValueError, match=r"in quotes, such as '1\.12'"):
        FleetSettings.model_validate({"name": "acme", "trust": [KEY.public], "min_version": written})
