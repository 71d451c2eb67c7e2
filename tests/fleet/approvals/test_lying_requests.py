"""A store that lies about requests and decisions: it may withhold news, and opens nothing, nor makes anything last."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloned_proxy.fleet.approvals import deciding as deciding_module
from cloned_proxy.fleet.approvals import requests as requests_module
from cloned_proxy.fleet.approvals.bounds import Allowance, Remembered
from cloned_proxy.fleet.approvals.decision import SKEW_SECONDS as SKEW
from cloned_proxy.fleet.approvals.decision import seal_decision
from cloned_proxy.fleet.approvals.request_store import MOST, MOST_ANSWERED, READ, READ_BOUNDS
from cloned_proxy.fleet.signed.errors import StoreAwayError
from cloned_proxy.store.approvals.approval import Proposal
from cloned_proxy.store.audit.database import reading
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.policyfile.policy_entry import Entry
from tests.fleet.approvals.desk import APPROVER, DECISION, HOST, NAMES, TOOL, Desk, offer, until
from tests.fleet.conftest import RedisServer
from tests.fleet.lying import LyingStore, runs


def frozen_at(moment: float) -> Callable[[list[bytes], Any], Any]:
    """It says that it is always then."""

    def lie(command: list[bytes], answer: Any) -> Any:
        if not runs(command, READ):
            return answer
        found = [int(moment * 1000), *answer[1:]]
        for at in range(4, len(found), 4):
            found[at] = 600_000
        return found

    return lie


async def test_an_approval_lasts_no_longer_for_being_offered_again(
    desk: Desk, liar: LyingStore, store: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fails at the moment at which it would be written down, which must not start its time anew."""
    now = time.time()
    decision = replace(DECISION, decided=now, ends=now + 60)
    liar.lie = frozen_at(now)
    offer(store, decision.request, seal_decision(decision, APPROVER))
    failing = True

    def settle(*_: object) -> str:
        if failing:
            raise StoreError("the disk is full")
        return ""

    monkeypatch.setattr(desk.requests._mirror, "settle", settle)
    await desk.requests.read()
    assert desk.passes()
    desk.later = 50.0
    await desk.requests.read()
    desk.later = 61.0
    desk.requests.in_force.end_what_is_over()
    await desk.requests.read()
    assert not desk.passes()
    failing = False
    await desk.requests.read()
    assert not desk.requests._unsettled
    assert len(desk.decided) == 1


async def test_nothing_is_decided_by_a_time_that_the_store_makes_up(
    desk: Desk, liar: LyingStore, store: RedisServer
) -> None:
    """What is signed by a time years ahead could be offered again for years."""
    asked = desk.ask()
    await desk.requests.tell()
    seconds = int(time.time())
    liar.lie = lambda command, answer: [b"%d" % (seconds + 86_400), b"0"] if command[0] == b"TIME" else answer
    with pytest.raises(StoreError, match=r"differ by 24\.0 hours, so nothing is decided"):
        await asyncio.to_thread(desk.decide, asked.id)
    with store.client() as client:
        assert not client.exists(NAMES.decisions)


async def test_news_that_could_not_be_read_is_read_again(
    desk: Desk, store: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    decision = replace(DECISION, decided=time.time(), ends=time.time() + 3600)
    offer(store, decision.request, seal_decision(decision, APPROVER))
    monkeypatch.setattr(requests_module, "_READ_SECONDS", 3600.0)
    read, failed = desk.requests.read, 0

    async def failing() -> None:
        nonlocal failed
        failed += 1
        if failed == 1:
            raise StoreAwayError("no answer in time")
        await read()

    monkeypatch.setattr(desk.requests, "read", failing)
    task = asyncio.create_task(desk.requests.run())
    with store.client() as client:
        client.publish(NAMES.news, decision.request)
    await until(desk.passes)
    assert failed == 2
    task.cancel()


async def test_an_approval_of_a_store_that_lies_about_the_time_ends_by_the_host_s_clock(
    desk: Desk, liar: LyingStore, store: RedisServer, tmp_path: Path
) -> None:
    """Each start of a replica is offered it as if it had just been given."""
    began = time.time()
    decision = replace(DECISION, decided=began, ends=began + 3600)
    liar.lie = frozen_at(began)
    offer(store, decision.request, seal_decision(decision, APPROVER))
    desk.later = SKEW + 3000.0
    await desk.requests.read()
    assert desk.passes()
    desk.later = SKEW + 3601.0
    assert not desk.passes()  # and not after an hour more
    desk.requests.in_force.end_what_is_over()
    assert desk.policies.granted == ()
    again = Desk("again", liar.url, tmp_path / "again")
    again.later = desk.later
    await again.requests.read()
    assert not again.passes()
    await again.link.close()


@pytest.mark.parametrize(
    "raw",
    [
        b'{"replica": "x", "entries": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
        b"[" * 60_000,
        b"{}",
        b'{"replica": "two"}',
        b"\xff\xfe",
        b'{"asker": 1e999999999, "replica": "x", "origin": []}',
        b"9" * 60_000,
        json.dumps({"replica": "two", "asker": TOOL, "origin": "tool", "entries": [{"host": ["x"]}]}).encode(),
    ],
)
async def test_one_broken_request_keeps_no_other_from_people(desk: Desk, store: RedisServer, raw: bytes) -> None:
    now = time.time()
    decision = replace(DECISION, request="z-0123456789", decided=now, ends=now + 600)
    for request in ("a-broken", "\u00e9", "x" * 500):
        offer(store, request, raw=raw)
    offer(store, "b-broken", raw, raw=raw)
    offer(store, decision.request, seal_decision(decision, APPROVER))
    await desk.requests.read()
    assert desk.passes()
    assert desk.state(decision.request) == ""


async def test_a_decision_settles_what_was_decided_and_no_other_that_is_shown_under_its_id(
    desk: Desk, store: RedisServer
) -> None:
    asked, other = desk.ask(), desk.ask("other.example.com")
    await desk.requests.tell()
    await asyncio.to_thread(desk.decide, asked.id)
    with store.client() as client:  # the text of the other one, in the place of the one that was decided
        client.hset(NAMES.requests, asked.id, client.hget(NAMES.requests, other.id) or b"")
    await desk.requests.read()
    assert (desk.state(asked.id), desk.state(other.id)) == ("approved", "pending")
    assert desk.passes()
    assert not desk.passes("other.example.com")


async def test_requests_that_nobody_made_take_no_room_from_real_ones(
    desk: Desk, store: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloned_proxy.store.approvals.approval_mirror._MOST_OF_OTHERS", 20)
    with desk.workspace.config_file.open("a") as config:
        config.write("approvals: {pending: 20, requests_per_minute: 20, pending_per_tool: 20}\n")
    for number in range(60):
        entries = [{"host": f"h{number}.example.com"}]
        made = {
            "asker": TOOL, "origin": "tool", "run": None, "replica": "ghost", "tool": TOOL, "action": "allow",
            "entries": entries, "for_seconds": None, "uses": None, "reason": "", "count": 1, "policy": "v",
        }  # fmt: skip
        offer(store, f"a-{number}", raw=json.dumps(made).encode())
    await desk.requests.read()
    assert len(desk.service.list("pending")) == 20
    assert len(desk.requests._refused._all) == requests_module._MOST_SAID
    asked = desk.service.ask("demo@v1", Proposal((Entry(HOST),), TOOL), origin="denied")
    await desk.requests.tell()
    assert asked.id in desk.requests._posted


async def test_requests_of_others_fill_the_log_at_a_bounded_rate(desk: Desk, store: RedisServer) -> None:
    """Each ends after a moment and makes room for the next, without end."""
    desk.requests._room = Allowance(5, 10)

    def shown() -> int:
        with reading(desk.workspace.state_db) as database:
            found: int = database.execute("SELECT count(*) FROM entries").fetchone()[0]
            return found

    async def flood(name: str) -> None:
        for number in range(10):
            made = {
                "asker": TOOL, "origin": "tool", "run": None, "replica": "ghost", "tool": TOOL, "action": "allow",
                "entries": [{"host": f"{name}{number}.example.com"}], "for_seconds": None, "uses": None,
                "reason": "", "count": 1, "policy": "v",
            }  # fmt: skip
            offer(store, f"{name}-{number}", raw=json.dumps(made).encode(), seconds=60)
        await desk.requests.read()

    await flood("a")
    assert shown() == 5
    await flood("b")
    assert shown() == 5
    desk.later += 6.5  # in which one more may be shown
    await flood("c")
    assert shown() == 6
    desk.later += 600.0  # as many as at first, and no more
    await flood("d")
    assert shown() == 6 + 5


def test_what_was_refused_is_remembered_up_to_a_bound() -> None:
    remembered = Remembered()
    for number in range(2 * MOST + 10):
        remembered.add(str(number))
    assert "9" not in remembered
    assert str(2 * MOST + 9) in remembered
    assert len(remembered._all) == 2 * MOST


async def test_a_twin_that_a_store_shows_and_takes_away_does_not_swallow_the_real_request(
    desk: Desk, store: RedisServer
) -> None:
    told = {
        "asker": TOOL, "origin": "denied", "run": None, "replica": "ghost", "tool": TOOL, "action": "allow",
        "entries": [{"host": HOST}], "for_seconds": None, "uses": None, "reason": "", "count": 1, "policy": "v",
    }  # fmt: skip
    offer(store, "a-ghost", raw=json.dumps(told).encode(), seconds=365 * 86_400)
    await desk.requests.read()
    ghost = desk.service.get("a-ghost")
    assert ghost.expires - desk.clock() < 31 * 86_400
    with store.client() as client:
        client.delete(NAMES.requests, NAMES.ends)
    asked = desk.ask()
    assert (asked.id != "a-ghost", asked.replica) == (True, "")
    await desk.requests.tell()
    await asyncio.to_thread(desk.decide, asked.id)
    await desk.requests.read()
    assert desk.passes()


@pytest.mark.parametrize("large", [1, 200])
async def test_what_is_too_large_is_left_out_and_told_and_what_people_decide_is_in_force(
    desk: Desk, store: RedisServer, monkeypatch: pytest.MonkeyPatch, large: int
) -> None:
    """One field is larger than all may be; or each is allowed, and all together are not.

    Of a bound that is a thirty-second of the real one: a busy machine has two seconds for each call.
    """
    most = MOST_ANSWERED // 32
    for module in (requests_module, deciding_module):
        monkeypatch.setattr(module, "MOST_ANSWERED", most)
        monkeypatch.setattr(module, "READ_BOUNDS", (*READ_BOUNDS[:2], str(most - 1024)))
    raw = b"x" * (4 * most if large == 1 else 2 * most // large)
    with store.client() as client:
        client.hset(NAMES.requests, mapping={f"j{number}": raw for number in range(large)})
        client.zadd(NAMES.ends, {f"j{number}": (time.time() + 600) * 1000 for number in range(large)})
    asked = desk.ask()
    await desk.requests.tell()
    await desk.requests.read()
    assert NAMES.requests in desk.link.parts.faults["requests"]
    await asyncio.to_thread(desk.decide, asked.id)
    await desk.requests.read()
    assert desk.passes()


async def test_nobody_is_told_of_a_decision_that_replicas_cannot_read(
    desk: Desk, liar: LyingStore, store: RedisServer
) -> None:
    asked = desk.ask()
    await desk.requests.tell()
    liar.lie = lambda command, answer: answer[:2] if runs(command, READ) else answer
    with pytest.raises(StoreError, match="in force nowhere yet"):
        await asyncio.to_thread(desk.decide, asked.id)


@pytest.mark.parametrize("days", [None, 365])
async def test_what_nobody_has_put_there_leaves_room_for_real_requests(
    desk: Desk, store: RedisServer, days: int | None
) -> None:
    with store.client() as client:
        client.hset(NAMES.requests, mapping={f"j{number}": "x" for number in range(MOST)})
        if days is not None:
            client.zadd(NAMES.ends, {f"j{number}": (time.time() + days * 86_400) * 1000 for number in range(MOST)})
    asked = desk.ask()
    await desk.requests.tell()
    assert asked.id in desk.requests._posted
