"""The log on its way to the store: each entry once, whatever fails, and none that is not on the disk."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from cloned_proxy.fleet.audit import audit_ship, local_log
from cloned_proxy.fleet.audit.audit_read import FleetLog
from cloned_proxy.fleet.audit.audit_ship import AuditShipper
from cloned_proxy.fleet.audit.local_log import LocalLog
from cloned_proxy.fleet.audit.stream_form import APPEND
from cloned_proxy.fleet.signed.errors import StoreAwayError
from cloned_proxy.store.audit.audit_log import append_bodies, prune_entries
from cloned_proxy.store.audit.audit_tail import AuditTail, Written
from cloned_proxy.store.audit.audit_writer import AuditWriter
from cloned_proxy.store.audit.database import reading
from cloned_proxy.telemetry.events import Entries
from tests.fleet.audit.shipping import NAMES, Replica, entries_of, event, read, rows, stream
from tests.fleet.conftest import RedisServer
from tests.fleet.lying import LyingStore


async def test_what_is_on_record_is_in_the_store_once(replica: Replica, store: RedisServer) -> None:
    replica.record(1000, 1001, 1002)
    assert await replica.shipper.ship()
    replica.record(1003)
    assert await replica.shipper.ship()
    assert await replica.shipper.ship()
    assert await read(replica) == ([("r1", seq) for seq in (1, 2, 3, 4)], [])
    with reading(replica.workspace.state_db) as database:
        local = [
            (seq, entry_hash, body) for seq, entry_hash, body in database.execute("SELECT seq, hash, body FROM entries")
        ]
    assert rows(store) == local
    assert replica.metric("shipped_total") == 4


async def test_a_replica_that_was_killed_goes_on_where_the_store_stands(
    replica: Replica, store: RedisServer, tmp_path: Path
) -> None:
    replica.record(1000, 1001)
    assert await replica.shipper.ship()
    replica.record(1002)
    again = Replica.make(tmp_path, store.url, "r1")  # knows nothing but its disk
    replica.record(1003)
    assert await again.shipper.ship()
    assert await replica.shipper.ship()  # and the first one, which thinks that it is where it was
    assert await read(replica) == ([("r1", seq) for seq in (1, 2, 3, 4)], [])
    assert replica.metric("shipped_total") == 2
    await again.link.close()


async def test_an_answer_that_was_lost_sends_nothing_twice(
    replica: Replica, store: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica.record(1000)
    assert await replica.shipper.ship()
    original = AuditShipper._append

    async def lost(self: AuditShipper, *arguments: Any) -> Any:
        await original(self, *arguments)
        monkeypatch.setattr(AuditShipper, "_append", original)
        raise StoreAwayError("lost")

    monkeypatch.setattr(AuditShipper, "_append", lost)
    replica.record(1001)
    assert not await replica.shipper.ship()
    assert await replica.shipper.ship()
    assert await read(replica) == ([("r1", 1), ("r1", 2)], [])


async def test_without_the_fence_an_entry_is_missing_after_the_store_has_lost_some(
    replica: Replica, store: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broken build of the next test."""
    fence = "if id ~= ARGV[1] then return {0, id} end"
    assert fence in APPEND
    monkeypatch.setattr(audit_ship, "APPEND", APPEND.replace(fence, ""))
    replica.record(1000, 1001)
    assert await replica.shipper.ship()
    store.restart()
    replica.record(1002)
    await replica.until_shipped()
    assert [seq for seq, _, _ in rows(store)] == [3]


async def test_a_store_that_was_killed_and_has_lost_all_gets_all_again(replica: Replica, store: RedisServer) -> None:
    replica.record(1000, 1001)
    assert await replica.shipper.ship()
    store.kill()
    replica.record(1002)
    assert not await replica.shipper.ship()
    assert (replica.metric("lag_entries"), replica.metric("lag_seconds")) == (1, 98)
    store.start()
    await replica.until_shipped()
    assert await read(replica) == ([("r1", seq) for seq in (1, 2, 3)], [])
    assert replica.metric("lag_entries") == 0


async def test_a_store_that_answers_nothing_holds_up_nothing(
    replica: Replica, store: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica.record(1000)
    assert await replica.shipper.ship()
    store.freeze()
    replica.record(1000.5)
    recorded, tell_lag = asyncio.Event(), replica.shipper._tell_lag

    async def tell_when_all_is_recorded() -> None:
        await recorded.wait()
        await tell_lag()

    monkeypatch.setattr(replica.shipper, "_tell_lag", tell_when_all_is_recorded)
    sending = asyncio.create_task(replica.shipper.ship())
    for at in range(1001, 1021):  # the log goes on meanwhile
        await asyncio.to_thread(replica.record, float(at))
    recorded.set()
    assert not await sending
    assert replica.metric("lag_entries") == 21
    store.thaw()
    await replica.until_shipped()
    assert await read(replica) == ([("r1", seq) for seq in range(1, 23)], [])


async def test_what_the_store_would_not_keep_is_not_sent_and_counted(store: RedisServer, tmp_path: Path) -> None:
    replica = Replica.make(tmp_path, store.url, "r1", keep=3)
    replica.record(*range(1000, 1008))
    assert await replica.shipper.ship()
    assert await read(replica) == ([("r1", 6), ("r1", 7), ("r1", 8)], [])
    assert replica.metric("skipped_total") == 5
    await replica.link.close()


async def test_more_than_a_group(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_log, "_GROUP", 7)
    monkeypatch.setattr("cloned_proxy.fleet.audit.audit_read._PAGE", 7)
    replica.record(*range(1000, 1030))
    assert await replica.shipper.ship()
    assert await read(replica) == ([("r1", seq) for seq in range(1, 31)], [])
    assert await read(replica, since=1025.0) == ([("r1", seq) for seq in range(26, 31)], [])


async def test_a_group_is_as_small_as_it_has_to_be_and_bodies_arrive_as_the_bytes_they_are(
    replica: Replica, store: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Text in which characters take several bytes, and what looks like the head of another entry."""
    monkeypatch.setattr(local_log, "GROUP_BYTES", 1)
    bodies = ['{"at":1.0,"why":"%s"}' % ("\u00fc\U0001f600" * 300), '{"at":1.0,"why":"5 64 9 x"}', "{}\n", " {}"]
    with reading(replica.workspace.state_db) as database:
        database.execute("BEGIN IMMEDIATE")
        append_bodies(database, Entries(bodies, []))
        database.execute("COMMIT")
    with store.client() as client:
        client.config_resetstat()
        assert await replica.shipper.ship()
        assert client.info("commandstats")["cmdstat_eval"]["calls"] == len(bodies)
    assert [body for _, _, body in rows(store)] == bodies
    assert replica.metric("shipped_total") == 4


async def test_entries_of_several_replicas_are_merged_by_time(store: RedisServer, tmp_path: Path) -> None:
    one, two = (Replica.make(tmp_path, store.url, name) for name in ("r1", "r2"))
    one.record(1000, 1002, 1004)
    two.record(1001, 1003)
    assert await one.shipper.ship()
    assert await two.shipper.ship()
    log = FleetLog(one.link, NAMES)
    assert [(each.replica, each.at) for each in await log.read()] == [
        ("r1", 1000), ("r2", 1001), ("r1", 1002), ("r2", 1003), ("r1", 1004),
    ]  # fmt: skip
    two.record(1005)
    assert await two.shipper.ship()
    assert [(each.replica, each.seq) for each in await log.read()] == [("r2", 3)]
    assert log.findings.lines() == []
    for each in (one, two):
        await each.link.close()


async def test_pruning_here_takes_nothing_back_there(replica: Replica) -> None:
    replica.record(*range(1000, 1006))
    assert await replica.shipper.ship()
    with reading(replica.workspace.state_db) as database:
        assert prune_entries(database, before=1003.5) == 4
    replica.record(1006)
    replica.shipper._id = ""  # as after a start
    assert await replica.shipper.ship()
    assert await read(replica) == ([("r1", seq) for seq in range(1, 8)], [])


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        (b"XREVRANGE", [[b"1-0", None]]),
        (b"XREVRANGE", [[None, None]]),
        (b"XREVRANGE", [[b"9" * 9000 + b"-0", [b"hash", b"x"]]]),
        (b"XREVRANGE", 7),
        (b"EVAL", [0, b"0-0"]),
        (b"EVAL", [1]),
        (b"EVAL", None),
        (b"EVAL", b"what"),
    ],
)
async def test_an_answer_that_is_none_ends_no_sending_and_is_not_asked_for_without_end(
    store: RedisServer, tmp_path: Path, asked: bytes, answer: object
) -> None:
    async with LyingStore(store.socket, store.socket.with_name("liar")).serving() as liar:
        replica = Replica.make(tmp_path, liar.url, "r1")
        replica.record(1000, 1001)
        await asyncio.to_thread(replica.notary.sign)
        liar.lie = lambda command, true: answer if command[0].upper() == asked else true
        async with asyncio.timeout(60):
            await replica.shipper.ship()
        assert len(liar.commands) < 30
        liar.lie = None
        await replica.until_shipped()
        assert [seq for _, seq in (await read(replica))[0]][-1] >= 2
        await replica.link.close()


async def test_a_store_that_never_takes_anything_is_left_alone_for_a_while(store: RedisServer, tmp_path: Path) -> None:
    async with LyingStore(store.socket, store.socket.with_name("liar")).serving() as liar:
        replica = Replica.make(tmp_path, liar.url, "r1")
        replica.record(1000, 1001)
        lies: dict[bytes, object] = {b"EVAL": [0, b"0-0"], b"XREVRANGE": []}
        liar.lie = lambda command, true: lies.get(command[0].upper(), true)
        async with asyncio.timeout(60):
            assert not await replica.shipper.ship()
        assert len(liar.commands) < 30
        await replica.link.close()


async def test_what_the_writer_has_just_written_is_not_read_again(
    replica: Replica, store: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of more than a group; entries of another process among them, and a log that is behind, come from the disk."""
    tail, path = AuditTail(), replica.workspace.state_db
    replica.shipper._local = LocalLog(path, tail)  # type: ignore[misc]
    read_back: list[int] = []

    def from_disk(database: sqlite3.Connection, seq: int) -> list[local_log.Group]:
        read_back.append(seq)
        return take(database, seq)

    take = local_log._take_entries
    monkeypatch.setattr(local_log, "_take_entries", from_disk)
    writer = AuditWriter(path, tail=tail)
    monkeypatch.setattr(local_log, "GROUP_BYTES", 100_000)
    for number in (1, 2099):
        for at in range(number):
            writer.record(event(1000.0 + at))
            if at % 100 == 0:
                await writer.caught_up()
        await writer.caught_up()
        assert await replica.shipper.ship()
    assert read_back == []

    replica.record(4000.0)
    writer.record(event(4001.0))
    await writer.caught_up()
    assert await replica.shipper.ship()
    assert read_back == [2100]
    writer.close()

    with reading(path) as database:
        local = database.execute("SELECT seq, hash, body FROM entries").fetchall()
    assert len(local) == 2102
    assert rows(store) == local[-len(rows(store)) :]
    assert await replica.shipper.ship()
    assert replica.metric("shipped_total") == 2102


async def test_what_was_taken_back_on_the_disk_is_not_sent(replica: Replica) -> None:
    """A file that was put in the place of the log's, while its writer has not seen it."""
    tail = AuditTail()
    replica.shipper._local = LocalLog(replica.workspace.state_db, tail)  # type: ignore[misc]
    replica.record(1000.0)
    tail.add(Written(1, 2, "0" * 64, json.dumps([[seq, "{}", "0" * 64] for seq in (1, 2)])))
    assert await replica.shipper.ship()
    assert await read(replica) == ([("r1", 1)], [])


async def test_entries_that_were_taken_out_there_are_sent_again_with_those_that_follow(
    replica: Replica, store: RedisServer
) -> None:
    replica.record(1000)
    assert await replica.shipper.ship()
    replica.record(1001, 1002)
    assert await replica.shipper.ship()
    with store.client() as client:
        client.xdel(stream(store), "3-0")
    replica.record(1003)
    assert await replica.shipper.ship()
    assert await read(replica) == ([("r1", seq) for seq in range(1, 5)], [])


async def test_a_log_of_which_the_newest_was_taken_out_there_is_sent_again_under_a_new_id_once_an_hour(
    replica: Replica, store: RedisServer
) -> None:
    """A stream takes no number again that it has had, and nothing newer follows."""
    replica.record(1000, 1001)
    assert await replica.shipper.ship()
    with store.client() as client:
        (first,) = client.hkeys(NAMES.audit_logs)
        client.xtrim(NAMES.audit(first.decode()), maxlen=0, approximate=False)
        replica.shipper._id = ""  # as after a start
        assert await replica.shipper.ship()
        second = replica.shipper._id
        assert second != first.decode()
        assert len(entries_of(store, second)) == 2
        client.xtrim(NAMES.audit(second), maxlen=0, approximate=False)
        replica.shipper._id = ""
        assert not await replica.shipper.ship()
        assert not await replica.shipper.ship()
        assert "once an hour" in replica.link.parts.faults["log"]
        replica.shipper._renamed_at = float("-inf")  # an hour later
        assert await replica.shipper.ship()
        assert len(entries_of(store, replica.shipper._id)) == 2
