"""The log in the store of a fleet: all of it, once, through crashes of either side; what the store changes shows."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest

from cloned_proxy.fleet.audit import audit_ship, local_log
from cloned_proxy.fleet.audit.audit_read import FleetLog
from cloned_proxy.fleet.audit.audit_ship import AuditShipper
from cloned_proxy.fleet.audit.bundle import LogSource, export
from cloned_proxy.fleet.audit.bundle_check import check
from cloned_proxy.fleet.audit.local_log import LocalLog
from cloned_proxy.fleet.audit.receipt import Receipt, own_key, seal_receipt
from cloned_proxy.fleet.audit.stream_form import APPEND
from cloned_proxy.fleet.signed.envelope import Trust
from cloned_proxy.fleet.signed.errors import StoreAwayError
from cloned_proxy.fleet.signed.keys import SigningKey
from cloned_proxy.store.audit.audit_log import append_bodies, prune_entries
from cloned_proxy.store.audit.audit_tail import AuditTail, Written
from cloned_proxy.store.audit.audit_writer import AuditWriter
from cloned_proxy.store.audit.chain import ChainLink, next_link
from cloned_proxy.store.audit.database import reading, writing
from cloned_proxy.telemetry.events import Entries
from tests.fleet.audit.shipping import NAMES, Replica, entries_of, event, read, rows
from tests.fleet.conftest import RedisServer
from tests.fleet.lying import LyingStore

OTHER = SigningKey.generate()


def stream(store: RedisServer) -> str:
    with store.client() as client:
        (name,) = client.hkeys(NAMES.audit_logs)
        return NAMES.audit(name.decode())


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
    monkeypatch.setattr(local_log, "_GROUP_BYTES", 1)
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


def put_back(backup: Path, replica: Replica) -> None:
    """While no proxy runs."""
    replica.shipper._local.close()
    database = replica.workspace.state_db
    for suffix in ("-wal", "-shm"):
        Path(f"{database}{suffix}").unlink(missing_ok=True)
    shutil.copy(backup, database)
    database.chmod(0o600)


async def test_a_log_that_somebody_has_changed_arrives_as_it_is(replica: Replica, store: RedisServer) -> None:
    """A line break in an entry, and a number that is missing: neither moves anything of the others."""
    for number in range(6):
        replica.record(1000 + number)
    with writing(replica.workspace.state_db) as database:
        bodies = [body + "\n" * (seq == 2) for seq, body in database.execute("SELECT seq, body FROM entries")]
        database.execute("UPDATE entries SET body = body || char(10) WHERE seq = 2")
        database.execute("DELETE FROM entries WHERE seq = 4")
    assert await replica.shipper.ship()
    assert {seq: body for seq, _, body in rows(store)} == {seq: body for seq, body in enumerate(bodies, 1) if seq != 4}


async def test_a_log_that_was_set_back_is_another_log(replica: Replica, store: RedisServer, tmp_path: Path) -> None:
    """A backup of the workspace was put back: its entries have the numbers of others that the store has."""
    replica.record(1000)
    assert await replica.shipper.ship()
    backup = tmp_path / "backup.db"
    with reading(replica.workspace.state_db) as database:
        database.execute("VACUUM INTO ?", (str(backup),))
    replica.record(1001)
    assert await replica.shipper.ship()
    put_back(backup, replica)
    replica.record(1500)
    again = Replica.make(tmp_path, store.url, "r1")
    assert await again.shipper.ship()
    entries, findings = await read(again)
    assert (len(entries), findings) == (4, [])  # two of each
    with store.client() as client:
        assert client.hlen(NAMES.audit_logs) == 2
    await again.link.close()


async def test_a_log_that_got_another_id_proves_its_receipts_from_before(
    replica: Replica, store: RedisServer, tmp_path: Path
) -> None:
    """It was copied to another machine, so that both logs go on in the store, each under an id of its own."""
    replica.record(1000)
    assert replica.notary.sign() is not None
    assert await replica.shipper.ship()
    backup = tmp_path / "backup.db"
    with reading(replica.workspace.state_db) as database:
        database.execute("VACUUM INTO ?", (str(backup),))
    replica.record(1001)
    former = replica.notary.sign()
    assert former is not None
    assert await replica.shipper.ship()
    put_back(backup, replica)
    replica.record(1500)
    again = Replica.make(tmp_path, store.url, "r1")
    assert await again.shipper.ship()
    again.record(1501)
    assert again.notary.sign() is not None
    assert await again.shipper.ship()
    assert await read(again) == (ANY, [])
    key = own_key(again.workspace)
    with reading(again.workspace.state_db) as database:
        lines = [line.encode() for line in export(database, None, LogSource("r1", 1.0, key))]
    verdict = check(lines, Trust([key.public]))
    assert (verdict.findings, verdict.receipts) == ([], 2)
    # What the log from which it was copied has signed since then is of other entries, and later of another log.
    for receipt, said in (
        (former, "receipt 3, given at entry 2, is for other entries: the log was changed behind it"),
        (replace(former, seq=3), "receipt 3 is for another log"),
    ):
        added = json.dumps({"receipt": json.loads(seal_receipt(receipt, key))}).encode()
        assert check([*lines[:-1], added, lines[-1]], Trust([key.public])).findings == [said]
    await again.link.close()


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
    assert log.findings == []
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


# A store that lies. --------------------------------------------------------------------------------------------------


async def shipped(replica: Replica) -> str:
    """Five entries with a receipt for the fourth; returns what begins each finding."""
    replica.record(1000, 1001, 1002, 1003)
    assert replica.notary.sign() is not None
    replica.record(1004)
    assert await replica.shipper.ship()
    assert (await read(replica, own_key(replica.workspace).public))[1] == []
    return f"r1 ({own_key(replica.workspace).id[:12]}): "


def rewrite(store: RedisServer, change: dict[int, str | None], *, anew: bool = False) -> None:
    """The stream once more with other bodies, None leaving one out; `anew` hashes the chain again behind them."""
    name, entries = stream(store), rows(store)
    with store.client() as client:
        client.delete(name)
        last = ChainLink(0, "0" * 64)
        for seq, entry_hash, before in entries:
            body = change.get(seq, before)
            if body is None:
                continue
            last = next_link(last, body)
            client.xadd(name, {"hash": last.hash if anew else entry_hash, "body": body}, f"{seq}-0")


EVIL = '{"at":1001.0,"type":"policy","action":"","actor":"","summary":"","why":"","policy":""}'


async def test_an_entry_that_was_changed_there(replica: Replica, store: RedisServer) -> None:
    who = await shipped(replica)
    rewrite(store, {2: EVIL})
    assert (await read(replica))[1] == [f"{who}entry 2 was changed in the store, or the one before it"]


async def test_an_entry_that_was_left_out_there(replica: Replica, store: RedisServer) -> None:
    who = await shipped(replica)
    rewrite(store, {2: None, 3: None})
    assert (await read(replica))[1] == [f"{who}entries 2 to 3 are not in the store"]


async def test_a_chain_that_was_hashed_anew_there(
    replica: Replica, store: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    who = await shipped(replica)
    rewrite(store, {2: EVIL}, anew=True)
    said = f"{who}the receipt given at entry 4 is for other entries: the store has changed them"
    assert (await read(replica))[1] == [said]
    monkeypatch.setattr(FleetLog, "_read_receipts", lambda *_: asyncio.sleep(0))
    assert (await read(replica))[1] == []  # without receipts nothing shows it


async def test_a_receipt_that_comes_later_is_looked_at_as_well(replica: Replica, store: RedisServer) -> None:
    """As for `log -f --fleet`."""
    who = await shipped(replica)
    rewrite(store, {5: EVIL}, anew=True)
    log = FleetLog(replica.link, NAMES)
    assert len(await log.read()) == 5
    assert log.findings == []
    assert replica.notary.sign() is not None
    assert await replica.shipper.ship()
    assert await log.read() == []
    assert log.findings == [f"{who}the receipt given at entry 5 is for other entries: the store has changed them"]


async def test_a_log_that_has_expired_leaves_the_list(replica: Replica, store: RedisServer) -> None:
    with store.client() as client:
        client.hset(NAMES.audit_logs, "0" * 16, json.dumps({"replica": "gone", "key": OTHER.public}))
        replica.record(1000)
        assert await replica.shipper.ship()
        assert client.ttl(stream(store)) > 80 * 86_400
        assert client.hlen(NAMES.audit_logs) == 1


async def test_a_receipt_of_another_key(replica: Replica, store: RedisServer) -> None:
    who = await shipped(replica)
    receipts = f"{stream(store)}:receipts"
    with store.client() as client:
        client.delete(receipts)
        forged = seal_receipt(Receipt("r1", receipts.split(":")[-2], 4, "0" * 64, 1.0), OTHER)
        client.xadd(receipts, {"hash": "", "body": forged}, "4-0")
    assert (await read(replica))[1] == [f"{who}a receipt is not of its key: it is another replica's, or was changed"]


async def test_a_log_that_was_made_up_shows_to_whoever_knows_the_key(replica: Replica, store: RedisServer) -> None:
    await shipped(replica)
    known = own_key(replica.workspace).public
    with store.client() as client:
        said = json.dumps({"replica": "r1", "key": OTHER.public})
        client.hset(NAMES.audit_logs, "f" * 16, said)
        made = next_link(ChainLink(0, "0" * 64), EVIL)
        client.xadd(NAMES.audit("f" * 16), {"hash": made.hash, "body": EVIL}, "1-0")
    assert (await read(replica))[1] == []  # its name is all that it claims
    (finding,) = (await read(replica, known))[1]
    assert "no receipt of a key that was named" in finding


@pytest.mark.parametrize("said", [b"", b"[]", b'{"replica": "r"}', b'{"replica": "r", "key": "x"}'])
async def test_a_log_of_nobody(replica: Replica, store: RedisServer, said: bytes) -> None:
    with store.client() as client:
        client.hset(NAMES.audit_logs, "1" * 16, said)
    assert "does not say whose" in (await read(replica))[1][0]


@pytest.mark.parametrize("body", ["", "x", "[]", "{}", '{"type": "a", "type": "b"}'])
async def test_an_entry_that_cannot_be_read(replica: Replica, store: RedisServer, body: str) -> None:
    await shipped(replica)
    rewrite(store, {5: body})
    entries, findings = await read(replica)
    assert len(entries) == 4
    assert any("entry 5 cannot be read" in each for each in findings)


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


@pytest.mark.parametrize("answer", [[[None, None]], [[b"x-0", [b"hash", b"x"]]], 7])
async def test_an_answer_that_is_no_log_is_told_and_breaks_nothing(
    store: RedisServer, tmp_path: Path, answer: object
) -> None:
    async with LyingStore(store.socket, store.socket.with_name("liar")).serving() as liar:
        replica = Replica.make(tmp_path, liar.url, "r1")
        replica.record(1000, 1001)
        await replica.until_shipped()
        liar.lie = lambda command, true: answer if command[0].upper() == b"XREVRANGE" else true
        with pytest.raises(StoreAwayError, match="no log of a fleet"):
            await read(replica)
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

    def from_disk(database: sqlite3.Connection, seq: int) -> local_log.Group | None:
        read_back.append(seq)
        return take(database, seq)

    take = local_log._take_entries
    monkeypatch.setattr(local_log, "_take_entries", from_disk)
    writer = AuditWriter(path, tail=tail)
    monkeypatch.setattr(local_log, "_GROUP_BYTES", 100_000)
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
