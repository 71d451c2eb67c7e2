"""Groups of entries in the store: beside entries of version 0.2.0, trimmed, changed there, in pages of any size."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloned_proxy.fleet.audit import audit_read, audit_ship, local_log
from cloned_proxy.fleet.audit.audit_read import FleetLog
from cloned_proxy.fleet.audit.audit_ship import AuditShipper
from cloned_proxy.fleet.audit.local_log import LocalLog
from cloned_proxy.fleet.audit.receipt import own_key
from cloned_proxy.fleet.audit.stream_form import APPEND
from cloned_proxy.fleet.signed.errors import StoreAwayError
from cloned_proxy.store.audit.audit_log import append_bodies
from cloned_proxy.store.audit.audit_tail import AuditTail, Written
from cloned_proxy.store.audit.database import reading
from cloned_proxy.telemetry.events import Entries
from tests.fleet.audit.shipping import NAMES, Replica, entries_of, read
from tests.fleet.conftest import RedisServer

# As version 0.2.0 sent it, word for word.
APPEND_0_2_0 = """
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
local id = last[1] and last[1][1] or ''
if id ~= ARGV[1] then return {0, id} end
local entries, at, line = ARGV[4], 1, tonumber(ARGV[5])
while at <= #entries do
  local hash, body, stop
  if line > 0 then
    stop = string.find(entries, '\\n', at, true) or #entries + 1
    hash, body = string.sub(entries, at, at + 63), string.sub(entries, at + 64, stop - 1)
    id, at, line = string.format('%.0f-0', line), stop + 1, line + 1
  else
    local _, head, seq, hashed, size = string.find(entries, '^(%d+) (%d+) (%d+) ', at)
    hash = string.sub(entries, head + 1, head + hashed)
    body = string.sub(entries, head + hashed + 1, head + hashed + size)
    id, at = seq .. '-0', head + hashed + size + 1
  end
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], id, 'hash', hash, 'body', body)
end
redis.call('EXPIRE', KEYS[1], ARGV[3])
return {1, id}
"""


def ship_as_0_2_0(replica: Replica, store: RedisServer) -> None:
    """All that is on record behind the newest that is there, whose hash it compares, as that version did."""
    with store.client() as client:
        name = NAMES.audit(replica.shipper._local.identify())
        newest = client.xrevrange(name, count=1)
        last = 0
        if newest:
            identifier, fields = newest[0]
            last = int(identifier.split(b"-")[0])
            assert fields[b"hash"].decode() == replica.shipper._local.hash_of(last), "else it gives itself a new id"
        with reading(replica.workspace.state_db) as database:
            found = database.execute("SELECT hash || body FROM entries WHERE seq > ? ORDER BY seq", (last,)).fetchall()
        lines = "\n".join(line for (line,) in found)
        expected = f"{last}-0" if last else ""
        done, _ = client.eval(APPEND_0_2_0, 1, name, expected, 1000, 86_400, lines, last + 1)
        assert done == 1
        client.hset(NAMES.audit_logs, replica.shipper._local.identify(), replica.shipper._said)


def record_bodies(replica: Replica, *bodies: str) -> list[Written]:
    with reading(replica.workspace.state_db) as database:
        database.execute("BEGIN IMMEDIATE")
        written = append_bodies(database, Entries(list(bodies), []))
        database.execute("COMMIT")
    return written


def body(size: int) -> str:
    return '{"at":1000.0,"type":"policy","why":"%s"}' % ("x" * size)


async def test_an_upgrade_and_the_way_back_lose_nothing(replica: Replica, store: RedisServer) -> None:
    """0.2.0, this version, 0.2.0 again and this one, which has not seen the other: one log under one id."""
    replica.record(1001, 1002, 1003)
    ship_as_0_2_0(replica, store)
    replica.record(1004, 1005, 1006)
    assert await replica.shipper.ship()
    replica.record(1007, 1008)
    ship_as_0_2_0(replica, store)
    replica.record(1009, 1010)
    assert await replica.shipper.ship()
    assert await read(replica) == ([("r1", seq) for seq in range(1, 11)], [])
    with store.client() as client:
        (log,) = client.hkeys(NAMES.audit_logs)
        forms = [b"entries" in fields for _, fields in client.xrange(NAMES.audit(log.decode()))]
    assert forms == [False, False, False, True, False, False, True]
    assert replica.metric("shipped_total") == 5


async def test_the_store_keeps_as_many_entries_as_it_should_and_a_few_groups(
    store: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of version 0.2.0 go as well. Each lies in a node of its own, which Redis takes out as a whole."""
    monkeypatch.setattr(local_log, "_GROUP", 4)
    replica = Replica.make(tmp_path, store.url, "r1", keep=10)
    record_bodies(replica, *[body(5000)] * 6)
    ship_as_0_2_0(replica, store)
    for _ in range(12):
        record_bodies(replica, *[body(5000)] * 5)
        assert await replica.shipper.ship()
    there = [seq for seq, _, _ in entries_of(store, replica.shipper._id)]
    assert there == list(range(there[0], 67))
    assert 10 <= len(there) <= 10 + 2 * 4
    entries, findings = await read(replica)
    assert ([seq for _, seq in entries], findings) == (there, [])
    await replica.link.close()


async def test_the_largest_group_is_read_again_after_a_start(
    replica: Replica, store: RedisServer, tmp_path: Path
) -> None:
    """The newest one is an answer of the store, which has a bound."""
    most = local_log.GROUP_BYTES
    record_bodies(replica, *[body(most // 10 - len(body(0)) - 100)] * 10)
    assert await replica.shipper.ship()
    with store.client() as client:
        ((_, fields),) = client.xrange(NAMES.audit(replica.shipper._id))
    assert most - 1000 < len(fields[b"entries"]) <= most
    again = Replica.make(tmp_path, store.url, "r1")
    again.record(1000)
    assert await again.shipper.ship()
    assert again.shipper._id == replica.shipper._id
    assert await read(again) == ([("r1", seq) for seq in range(1, 12)], [])
    await again.link.close()


async def test_what_was_written_since_goes_out_in_one_call_where_the_store_is_quick(
    replica: Replica, store: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of large groups each as it was written; small ones joined; what is larger than a group may be in parts."""
    monkeypatch.setattr(local_log, "GROUP_BYTES", 100_000)
    tail = AuditTail()
    replica.shipper._local = LocalLog(replica.workspace.state_db, tail)  # type: ignore[misc]

    def write(*bodies: str) -> None:
        for written in record_bodies(replica, *bodies):
            tail.add(written)

    async def calls() -> int:
        with store.client() as client:
            client.config_resetstat()
            assert await replica.shipper.ship()
            return int(client.info("commandstats").get("cmdstat_eval", {}).get("calls", 0))

    for _ in range(3):
        write(*[body(9_000)] * 8)
    write(body(10))
    write(body(10))
    assert await calls() == 1
    with store.client() as client:
        name = NAMES.audit(replica.shipper._id)
        assert [row[0] for row in client.xrange(name)] == [b"8-0", b"16-0", b"24-0", b"26-0"]
    write(body(10))
    write(*[body(9_000)] * 20)
    write(body(10))
    assert await calls() == 3
    assert await read(replica) == ([("r1", seq) for seq in range(1, 49)], [])
    assert replica.metric("shipped_total") == 48


async def test_a_slow_store_gets_one_group_at_a_time(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    news = LocalLog.news

    def noted(self: LocalLog, seq: int, receipt: int, *, most: int) -> local_log.News:
        asked.append(most // local_log.GROUP_BYTES)
        return news(self, seq, receipt, most=most)

    monkeypatch.setattr(LocalLog, "news", noted)
    for slow in (False, False, False, True, False, False):
        monkeypatch.setattr(audit_ship, "_QUICK_SECONDS", -1.0 if slow else 60.0)
        replica.record(1000)
        assert await replica.shipper.ship()
    assert asked == [1, 2, 4, 4, 1, 2]

    async def away(*_: object) -> object:
        raise StoreAwayError("away")

    monkeypatch.setattr(AuditShipper, "_append", away)
    replica.record(1000)
    assert not await replica.shipper.ship()
    monkeypatch.undo()
    assert replica.shipper._call_bytes == local_log.GROUP_BYTES


async def test_pages_become_smaller_where_an_answer_would_be_too_large(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many small ones first, backwards, so that pages have grown when the large ones come."""
    monkeypatch.setattr(audit_read, "_PAGE_BYTES", 100_000)
    monkeypatch.setattr(audit_read, "_MOST_ANSWERED", 120_000)
    record_bodies(replica, *[body(50_000)] * 9)
    monkeypatch.setattr(local_log, "_GROUP", 1)
    assert await replica.shipper.ship()
    record_bodies(replica, *[body(10)] * 150)
    assert await replica.shipper.ship()
    asked: list[int] = []
    original = FleetLog._page

    async def page(self: FleetLog, log: audit_read._Log, command: str, **where: str) -> object:
        asked.append(log.page)
        return await original(self, log, command, **where)

    monkeypatch.setattr(FleetLog, "_page", page)
    assert await read(replica) == ([("r1", seq) for seq in range(1, 160)], [])
    assert max(asked) > 64, "a page was to be asked for that is too large"

    monkeypatch.setattr(audit_read, "_MOST_ANSWERED", 40_000)
    with pytest.raises(StoreAwayError, match="too large"):
        await read(replica)


type Rows = list[list[Any]]


def changed(rows: Rows) -> Rows:
    rows[1][1] = rows[1][1].replace("1001", "1999")
    return rows


def without_one(rows: Rows) -> Rows:
    return [rows[0], *rows[2:]]


def moved(rows: Rows) -> Rows:
    rows[1], rows[2] = [2, *rows[2][1:]], [3, *rows[1][1:]]
    return rows


def added(rows: Rows) -> Rows:
    return [*rows, [5, *rows[-1][1:]]]


def nothing(_: Rows) -> Rows:
    return []


def otherwise(seq: int) -> str:
    return f"entry {seq} was changed in the store, or the one before it"


UNREAD = "what lies under entry 4 cannot be read: it was changed"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (changed, [otherwise(2)]),
        (without_one, ["entry 2 is not in the store"]),
        (moved, [otherwise(2), otherwise(3), otherwise(4)]),
        (added, [UNREAD]),
        (nothing, [UNREAD]),
    ],
)
async def test_a_group_that_was_changed_there(
    replica: Replica, store: RedisServer, change: Callable[[Rows], Rows], said: list[str]
) -> None:
    replica.record(1000, 1001, 1002, 1003)
    assert await replica.shipper.ship()
    replica.record(1004)
    assert await replica.shipper.ship()
    name = NAMES.audit(replica.shipper._id)
    with store.client() as client:
        (first, fields), (second, rest) = client.xrange(name)
        client.delete(name)
        client.xadd(name, {**fields, b"entries": json.dumps(change(json.loads(fields[b"entries"])))}, first)
        client.xadd(name, rest, second)
    who = f"r1 ({own_key(replica.workspace).id[:12]}): "
    entries, findings = await read(replica)
    assert findings == [who + each for each in said]
    assert ("r1", 5) in entries, "what follows is read"


async def test_entries_that_lie_there_twice(replica: Replica, store: RedisServer) -> None:
    replica.record(1000, 1001)
    assert await replica.shipper.ship()
    replica.record(1002)
    assert await replica.shipper.ship()
    name = NAMES.audit(replica.shipper._id)
    with store.client() as client:
        (first, fields), (second, rest) = client.xrange(name)
        client.delete(name)
        both = json.loads(fields[b"entries"]) + json.loads(rest[b"entries"])
        client.xadd(name, fields, first)
        client.xadd(name, {**rest, b"entries": json.dumps(both)}, second)
    _, findings = await read(replica)
    assert [each.partition(": ")[2] for each in findings] == ["entry 1 is in the store once more, behind entry 2"], (
        "and the chain goes on behind it"
    )


@pytest.mark.parametrize(
    ("script", "logs"), [(APPEND, 1), (APPEND.replace("'hash', ARGV[at + 1], ", ""), 2)], ids=["ours", "broken"]
)
async def test_a_start_knows_its_log_by_the_hash_of_a_group(
    store: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, logs: int
) -> None:
    """Without that each start would take what is there for another log, and send all of it again."""
    monkeypatch.setattr(audit_ship, "APPEND", script)
    for _ in range(2):
        started = Replica.make(tmp_path, store.url, "r1")
        started.record(1000, 1001)
        assert await started.shipper.ship()
        await started.link.close()
    with store.client() as client:
        assert client.hlen(NAMES.audit_logs) == logs
