"""Requests of tools over a fleet: asked on one replica, seen on all, decided once, in force and ended everywhere."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cloned_proxy.fleet.approvals.approval_service import approvals_of
from cloned_proxy.fleet.approvals.decision import SKEW_SECONDS, read_decision, seal_decision
from cloned_proxy.fleet.members.member import replica_key
from cloned_proxy.fleet.signed.errors import EnvelopeError, FleetError, StoreAwayError
from cloned_proxy.fleet.signed.keys import SigningKey
from cloned_proxy.store.approvals.approval import Proposal
from cloned_proxy.store.approvals.approvals import ApprovalService
from cloned_proxy.store.policyfile.policy_entry import Entry
from cloned_proxy.store.workspaces.workspace import Workspace
from tests.fleet.approvals.desk import (
    APPROVER,
    DECISION,
    FLEET,
    HOST,
    NAMES,
    TOOL,
    TRUST,
    Desk,
    until,
)
from tests.fleet.conftest import RedisServer


async def test_asked_on_one_decided_on_another_in_force_on_all(desks: Callable[..., Desk]) -> None:
    one, two, three = desks("one"), desks("two"), desks("three")
    asked = one.ask()
    await until(lambda: all(desk.state(asked.id) == "pending" for desk in (two, three)))
    shown = two.service.get(asked.id)
    assert (shown.replica, shown.asker, str(shown.proposal.addition)) == ("one", TOOL, f"allow {HOST} for {TOOL}")
    await asyncio.to_thread(two.decide, asked.id, for_seconds=600.0)
    began = time.monotonic()
    await until(lambda: all(desk.passes() for desk in (one, two, three)))
    assert time.monotonic() - began < 30  # in force within a second on a machine that has nothing else to do
    await until(lambda: one.state(asked.id) == three.state(asked.id) == "approved")
    assert one.service.get(asked.id).decided_by == "device:phone@two"
    assert [each.by for each in one.decided] == ["device:phone"]
    assert not one.passes("other.example.com")


async def test_one_decision_wins(desks: Callable[..., Desk]) -> None:
    one, two = desks("one"), desks("two")
    asked = one.ask()
    await until(lambda: two.state(asked.id) == "pending")
    outcomes = await asyncio.gather(
        asyncio.to_thread(one.decide, asked.id),
        asyncio.to_thread(two.decide, asked.id, yes=False),
        return_exceptions=True,
    )
    assert sorted(type(each).__name__ for each in outcomes) == ["DecidedError", "NoneType"]
    won = "approved" if outcomes[0] is None else "rejected"
    await until(lambda: one.state(asked.id) == two.state(asked.id) == won)
    await until(lambda: one.passes() == two.passes() == (won == "approved"))


async def test_equal_requests_of_two_replicas_are_one_for_people(
    desks: Callable[..., Desk], store: RedisServer
) -> None:
    one = desks("one")
    asked = one.ask()
    two = desks("two")
    await until(lambda: two.state(asked.id) == "pending")
    own = two.ask()
    assert [each.id for each in two.service.list("pending")] == [own.id]
    third = desks("three")
    assert len(two.service.list("pending")) == 1
    await until(lambda: len(third.service.list("pending")) == 1)
    await until(lambda: own.id in two.requests._posted)
    await asyncio.to_thread(one.decide, asked.id)
    await until(lambda: two.state(own.id) == "approved")
    with store.client() as client:  # what is decided is asked of nobody again
        await until(lambda: not client.hexists(NAMES.requests, own.id))


async def test_it_ends_everywhere_on_time_whatever_the_clocks_say(desks: Callable[..., Desk]) -> None:
    one, ahead, behind = desks("one"), desks("ahead"), desks("behind")
    ahead.off, behind.off = 3600.0, -3600.0
    every = (one, ahead, behind)
    asked = one.ask()
    await until(lambda: behind.state(asked.id) == "pending")
    await asyncio.to_thread(behind.decide, asked.id, for_seconds=3600.0)
    await until(lambda: all(desk.passes() for desk in every))
    for desk in every:
        desk.later = 3400.0  # what the test itself takes on a busy machine is less than the rest
    await asyncio.sleep(0)
    assert [desk.passes() for desk in every] == [True, True, True]
    for desk in every:
        desk.later = 3601.0
    assert [desk.passes() for desk in every] == [False, False, False]
    for desk in every:
        desk.requests.in_force.end_what_is_over()
        assert desk.policies.granted == ()


async def test_a_deny_of_the_policy_wins_and_no_policy_denies_all(desks: Callable[..., Desk]) -> None:
    one = desks("one")
    asked = one.service.ask(TOOL, Proposal((Entry("*.example.com"),), TOOL), origin="tool")
    await until(lambda: bool(one.requests._posted))
    await asyncio.to_thread(one.decide, asked.id)
    await until(one.passes)
    assert not one.passes("denied.example.com")
    one.live = None  # type: ignore[assignment]
    assert not one.passes()


async def test_what_is_granted_goes_on_while_the_store_is_away_and_nothing_is_decided(
    desks: Callable[..., Desk], store: RedisServer
) -> None:
    one = desks("one")
    asked = one.ask()
    await until(lambda: bool(one.requests._posted))
    await asyncio.to_thread(one.decide, asked.id)
    await until(one.passes)
    later = one.ask("later.example.com")
    store.kill()
    await until(lambda: not one.link.connected)
    with pytest.raises(StoreAwayError):
        await asyncio.to_thread(one.decide, later.id)
    assert one.state(later.id) == "pending"
    assert one.passes()
    store.start()  # with nothing of what it knew
    await until(lambda: later.id in one.requests._posted)
    assert one.passes()
    await asyncio.to_thread(one.decide, later.id)
    await until(lambda: one.passes("later.example.com"))


async def test_only_an_approver_decides(desks: Callable[..., Desk]) -> None:
    none, replicas = desks("none", approver=None), desks("own", approver=SigningKey.generate())
    asked = none.ask()
    await until(lambda: replicas.state(asked.id) == "pending")
    with pytest.raises(Exception, match="approvals key"):
        await asyncio.to_thread(none.decide, asked.id)
    with pytest.raises(FleetError, match="may not decide"):
        await asyncio.to_thread(replicas.decide, asked.id)
    assert none.state(asked.id) == "pending"


@pytest.fixture(params=["stranger", "replica", "fleet", "request", "wide", "long", "future", "unsigned"])
def forged(request: pytest.FixtureRequest) -> Callable[[Desk, str], bytes]:
    kind: str = request.param

    def make(desk: Desk, asked: str) -> bytes:  # noqa: PLR0911  a table
        now = time.time()
        decision = replace(DECISION, request=asked, decided=now, ends=now + 600)
        match kind:
            case "stranger":
                return seal_decision(decision, SigningKey.generate())
            case "replica":
                return seal_decision(decision, replica_key(desk.workspace))
            case "fleet":
                return seal_decision(replace(decision, fleet="other"), APPROVER)
            case "request":  # of another request, which a person has seen
                return seal_decision(replace(decision, request="a-9999999999"), APPROVER)
            case "wide":
                return seal_decision(replace(decision, entries=(Entry("*.com"),)), APPROVER)
            case "long":
                return seal_decision(replace(decision, ends=now + 10 * 365 * 86_400), APPROVER)
            case "future":
                ahead = now + SKEW_SECONDS + 3600
                return seal_decision(replace(decision, decided=ahead, ends=ahead + 600), APPROVER)
            case _:
                return seal_decision(decision, APPROVER).replace(b'"sig":"', b'"sig":"0')

    return make


async def test_a_store_that_lies_opens_nothing(
    desks: Callable[..., Desk], store: RedisServer, forged: Callable[[Desk, str], bytes]
) -> None:
    one = desks("one")
    asked, honest = one.ask(), one.ask("honest.example.com")
    await until(lambda: len(one.requests._posted) == 2)
    with store.client() as client:
        client.hset(NAMES.decisions, asked.id, forged(one, asked.id))
        client.publish(NAMES.news, asked.id)
    await asyncio.to_thread(one.decide, honest.id)
    await until(lambda: one.passes("honest.example.com"))
    assert not one.passes()
    assert one.state(asked.id) == "pending"


async def test_an_old_approval_that_is_offered_again_opens_nothing(
    desks: Callable[..., Desk], store: RedisServer
) -> None:
    one = desks("one")
    asked, honest = one.ask(), one.ask("honest.example.com")
    await until(lambda: len(one.requests._posted) == 2)
    old = replace(DECISION, request=asked.id, decided=time.time() - 86_400, ends=time.time() - 86_400 + 600)
    with store.client() as client:
        client.hset(NAMES.decisions, asked.id, seal_decision(old, APPROVER))
    await asyncio.to_thread(one.decide, honest.id)
    await until(lambda: one.passes("honest.example.com"))
    assert not one.passes()


async def test_uses_of_each_approval_are_its_own() -> None:
    first = replace(DECISION, uses=5).rules()
    again = replace(DECISION, uses=5, request="a-9876543210").rules()
    assert {rule.max_uses for rule in (*first, *again)} == {5}
    assert first[0].id != again[0].id
    assert first[0].id == replace(DECISION, uses=5).rules()[0].id


def test_a_decision_reads_as_it_was_sealed() -> None:
    decision = replace(DECISION, entries=(Entry(HOST, (8443,), ("GET",)),), uses=3, reason="because")
    assert read_decision(seal_decision(decision, APPROVER), TRUST, FLEET, decision.request) == decision
    with pytest.raises(EnvelopeError):
        read_decision(b"{}", TRUST, FLEET, decision.request)


def test_without_a_fleet_the_policy_file_is_edited(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.create()
    assert type(approvals_of(workspace)) is ApprovalService
