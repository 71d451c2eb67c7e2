"""A log that somebody has changed, set back or made up, here or in the store: whoever reads it is told."""

from __future__ import annotations

import asyncio
import json
import shutil
from dataclasses import replace
from pathlib import Path
from unittest.mock import ANY

import pytest

from cloned_proxy.fleet.audit.audit_read import FleetLog
from cloned_proxy.fleet.audit.bundle import LogSource, export
from cloned_proxy.fleet.audit.bundle_check import check
from cloned_proxy.fleet.audit.receipt import Receipt, own_key, seal_receipt
from cloned_proxy.fleet.signed.envelope import Trust
from cloned_proxy.fleet.signed.errors import StoreAwayError
from cloned_proxy.fleet.signed.keys import SigningKey
from cloned_proxy.store.audit.chain import ChainLink, next_link
from cloned_proxy.store.audit.database import reading, writing
from tests.fleet.audit.shipping import NAMES, Replica, read, rows, stream
from tests.fleet.conftest import RedisServer
from tests.fleet.lying import LyingStore

OTHER = SigningKey.generate()


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
    assert log.findings.lines() == []
    assert replica.notary.sign() is not None
    assert await replica.shipper.ship()
    assert await log.read() == []
    said = f"{who}the receipt given at entry 5 is for other entries: the store has changed them"
    assert log.findings.lines() == [said]


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
