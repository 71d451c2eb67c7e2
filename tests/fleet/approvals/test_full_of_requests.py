"""A store that is full of requests which one sender has put there: those of all others are taken, told and shown."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cloned_proxy.fleet.approvals import request_store
from cloned_proxy.fleet.approvals import requests as requests_module
from cloned_proxy.fleet.approvals.bounds import Allowance
from cloned_proxy.fleet.approvals.offered import Offered
from cloned_proxy.fleet.approvals.request_store import MOST
from cloned_proxy.store.approvals.approval_mirror import ApprovalMirror
from cloned_proxy.store.files.errors import StoreError
from tests.fleet.approvals.desk import HOST, NAMES, TOOL, Desk, until
from tests.fleet.conftest import RedisServer

FULL = 50


@pytest.fixture
async def desk(store: RedisServer, tmp_path: Path) -> AsyncIterator[Desk]:
    one = Desk("one", store.url, tmp_path / "one")
    one.link.start()
    await until(lambda: one.link.connected)
    yield one
    await one.link.close()


def small(monkeypatch: pytest.MonkeyPatch, most: int = FULL) -> None:
    """So many requests are as many as there may be."""
    monkeypatch.setattr(requests_module, "MOST", most)
    monkeypatch.setattr("cloned_proxy.fleet.approvals.offered.MOST", most)


def told(host: str, replica: str) -> bytes:
    return json.dumps({
        "asker": TOOL, "origin": "tool", "run": None, "replica": replica, "tool": TOOL, "action": "allow",
        "entries": [{"host": host}], "for_seconds": None, "uses": None, "reason": "", "count": 1, "policy": "v",
    }).encode()  # fmt: skip


def fill(store: RedisServer, *, replica: str = "ghost", count: int = FULL, name: str = "j", raw: bytes = b"") -> None:
    """As somebody does who has a replica's password. `{}` in the replica's name is the number of each."""
    ends = (time.time() + 600) * 1000
    with store.client() as client:
        rows = {
            f"{name}{number}": raw or told(f"{name}{number}.example.com", replica.format(number))
            for number in range(count)
        }
        client.hset(NAMES.requests, mapping=rows)
        client.zadd(NAMES.ends, dict.fromkeys(rows, ends))


def inside(store: RedisServer) -> set[str]:
    with store.client() as client:
        return {name.decode() for name in client.hkeys(NAMES.requests)}


@pytest.mark.parametrize(
    ("junk", "replica"),
    [(b"x", ""), (b"", "ghost"), (b"", "one"), (b"", "ghost{}")],
    ids=["no requests", "of one replica", "in the name of the replica that asks", "each of another replica"],
)
@pytest.mark.parametrize("broken", [False, True])
async def test_ten_thousand_small_requests_stop_no_other_one(
    desk: Desk, store: RedisServer, monkeypatch: pytest.MonkeyPatch, junk: bytes, replica: str, *, broken: bool
) -> None:
    """At the real bound. In the broken build nobody makes room."""
    if broken:
        guard = "if #most * held / #sample <= 2 * (ARGV[7] + 1) then return 0 end"
        assert guard in request_store.ASK
        monkeypatch.setattr(requests_module, "ASK", request_store.ASK.replace(guard, "if held then return 0 end"))
    fill(store, replica=replica, count=MOST, raw=junk)
    asked = [desk.ask(), desk.ask("second.example.com")]
    await desk.requests.tell()
    assert ({each.id for each in asked} <= inside(store)) is not broken
    assert ("seen on this replica alone" in desk.link.parts.faults.get("requests", "")) is broken
    if not broken:
        assert len(inside(store)) == MOST


async def test_that_the_store_is_full_is_told_with_who_fills_it_until_it_is_not(
    desk: Desk, store: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(monkeypatch)
    fill(store, count=FULL - 1)
    fill(store, replica="two", count=1, name="b")
    await desk.requests.read()
    said = desk.link.parts.faults["requests"]
    assert f"{FULL} requests wait, {FULL - 1} of them said to be of ghost" in said, said
    with store.client() as client:
        client.delete(NAMES.requests, NAMES.ends)
    await desk.requests.read()
    assert "requests" not in desk.link.parts.faults


async def test_what_made_room_for_another_is_told_again(desk: Desk, store: RedisServer) -> None:
    asked = desk.ask()
    await desk.requests.tell()
    with store.client() as client:
        client.hdel(NAMES.requests, asked.id)
        client.zrem(NAMES.ends, asked.id)
        await desk.requests.read()
        await desk.requests.tell()
        assert client.hget(NAMES.requests, asked.id)
        # What is there is not told twice: nobody would read it for that.
        before = client.info("commandstats")["cmdstat_publish"]["calls"]
        await desk.requests.read()
        await desk.requests.tell()
        assert client.info("commandstats")["cmdstat_publish"]["calls"] == before


async def test_what_is_decided_makes_no_room_and_takes_none(
    desk: Desk, store: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replicas that are away hear of it when they are back."""
    small(monkeypatch, most=3)
    for number in range(6):
        asked = desk.ask(f"h{number}.example.com")
        await desk.requests.tell()
        await asyncio.to_thread(desk.decide, asked.id, yes=False)
        await desk.requests.read()
    fill(store, count=3)
    late = desk.ask()
    await desk.requests.tell()
    with store.client() as client:
        assert client.hlen(NAMES.decisions) == 6
        assert all(client.hget(NAMES.requests, name) for name in client.hkeys(NAMES.decisions))
    assert late.id in inside(store)


async def test_a_replica_that_has_as_many_as_any_other_takes_no_place_of_theirs(
    desk: Desk, store: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(monkeypatch, most=6)
    fill(store, count=3)
    for number in range(4):
        desk.ask(f"h{number}.example.com")
    await desk.requests.tell()
    assert {"j0", "j1", "j2"} < inside(store)
    assert len(inside(store)) == 6
    assert "about as many of this replica" in desk.link.parts.faults["requests"]


@pytest.mark.parametrize("broken", [False, True])
async def test_requests_of_one_replica_keep_those_of_another_from_nobody(
    desk: Desk, store: RedisServer, monkeypatch: pytest.MonkeyPatch, *, broken: bool
) -> None:
    """Within the rate at which they are shown, and in the room that there is for those that wait."""
    if broken:
        monkeypatch.setattr(Offered, "in_turns", lambda self: (row for _, row in sorted(self._waiting, key=_by_id)))
        monkeypatch.setattr("cloned_proxy.store.approvals.approval_mirror._MOST_OF_ONE", 10**6)
    monkeypatch.setattr("cloned_proxy.store.approvals.approval_mirror._MOST_OF_OTHERS", 120)
    fill(store, count=130)
    fill(store, replica="two", count=1, name="real")
    desk.requests._room = Allowance(5, 1e-9)
    await desk.requests.read()
    shown = {each.id for each in desk.service.list("pending")}
    assert len(shown) == 5
    assert ("real0" in shown) is not broken
    desk.requests._room = Allowance(500, 1e-9)
    await desk.requests.read()
    fill(store, replica="two", count=1, name="late")
    await desk.requests.read()
    shown = {each.id for each in desk.service.list("pending")}
    assert ("late0" in shown) is not broken
    assert len(shown) == (120 if broken else 102)


def _by_id(each: tuple[int, tuple[bytes, bytes, int, bytes]]) -> bytes:
    return each[1][0]


@pytest.mark.parametrize("broken", [False, True])
async def test_a_twin_that_was_offered_once_keeps_no_real_request_from_another_desk(
    desk: Desk, store: RedisServer, monkeypatch: pytest.MonkeyPatch, *, broken: bool
) -> None:
    """It would wait there for a month in the place of the real one, and nobody could decide it."""
    if broken:
        monkeypatch.setattr(ApprovalMirror, "keep_others", lambda _self, _there: None)
    fill(store, count=1, name="twin")
    await desk.requests.read()
    assert [each.id for each in desk.service.list("pending")] == ["twin0"]
    with store.client() as client:
        client.delete(NAMES.requests, NAMES.ends)
        real = told("twin0.example.com", "two")
        client.hset(NAMES.requests, "real", real)
        client.zadd(NAMES.ends, {"real": (time.time() + 600) * 1000})
    own = desk.ask()
    await desk.requests.read()
    shown = {each.id for each in desk.service.list("pending")}
    assert shown == {own.id, "twin0" if broken else "real"}


async def test_a_full_disk_keeps_no_decision_from_acting_while_requests_go(
    desk: Desk, store: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, count=1)
    await desk.requests.read()
    asked = desk.ask()
    await desk.requests.tell()
    await asyncio.to_thread(desk.decide, asked.id)
    with store.client() as client:
        client.hdel(NAMES.requests, "j0")

    def full(*_: object) -> None:
        raise StoreError("the disk is full")

    with monkeypatch.context() as disk:
        disk.setattr(ApprovalMirror, "keep_others", full)
        await desk.requests.read()
        assert desk.passes()
        assert desk.state("j0") == "pending"
    await desk.requests.read()
    assert desk.state("j0") == ""


def test_answers_of_no_script_are_in_nobodys_way() -> None:
    raw = told(HOST, "two")
    found = [7, 7, 7, b"", b"a", raw, 5, b"", b"b", raw, 5, b"", b"\xff", b"{}", 5, b"", b"c", b"", 5, b"envelope"]
    offered = Offered(found)
    assert [row[0] for row in offered.in_turns()] == [b"c", 7, b"a", b"b", b"\xff"]
    assert {"a", "b", "c"} <= offered.ids
    assert offered.why_full("requests") == ""
