"""Decisions that nobody signed, in masses, and ones that a wrong clock hides: traffic has its turn, no yes is lost."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from cloned_proxy.fleet.approvals import decision as decision_module
from cloned_proxy.fleet.approvals import decision_reader as reader_module
from cloned_proxy.fleet.approvals import requests as requests_module
from cloned_proxy.fleet.approvals.decision import SKEW_SECONDS, seal_decision
from cloned_proxy.fleet.approvals.request_store import READ
from cloned_proxy.fleet.signed.keys import SigningKey
from cloned_proxy.policy.terms.rule import Rule
from tests.fleet.approvals.desk import APPROVER, DECISION, Desk, offer
from tests.fleet.conftest import RedisServer
from tests.fleet.lying import LyingStore, runs

JUNK = 200


@contextlib.contextmanager
def counted_checks(monkeypatch: pytest.MonkeyPatch, of: list[object]) -> Iterator[None]:
    """Each look at a signature, by the number of turns that others have had until then."""
    original = decision_module.read_decision
    turns = 0
    going = True

    async def others() -> None:
        nonlocal turns
        while going:
            turns += 1
            await asyncio.sleep(0)

    def looked(*arguments: Any) -> Any:
        of.append(turns)
        return original(*arguments)

    monkeypatch.setattr(reader_module, "read_decision", looked)
    task = asyncio.create_task(others())
    try:
        yield
    finally:
        going = False
        task.cancel()


async def test_masses_of_decisions_that_nobody_signed_cost_traffic_no_turn_and_are_checked_once(
    desk: Desk, store: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = SigningKey.generate()
    for number in range(JUNK):
        made_up = replace(DECISION, request=f"a-{number:010d}", decided=time.time(), ends=time.time() + 60)
        offer(store, made_up.request, seal_decision(made_up, stranger))
    checks: list[object] = []
    with counted_checks(monkeypatch, checks):
        await desk.requests.read()
        assert len(checks) == JUNK
        assert len(set(checks)) >= JUNK // requests_module._IN_A_TURN
        await desk.requests.read()
    assert len(checks) == JUNK
    assert not desk.policies.granted


async def test_a_yes_that_a_slow_clock_hides_is_in_force_once_the_clock_is_set(desk: Desk, store: RedisServer) -> None:
    now = time.time()
    decision = replace(DECISION, decided=now, ends=now + 600)
    offer(store, decision.request, seal_decision(decision, APPROVER))
    desk.off = -SKEW_SECONDS - 60
    await desk.requests.read()
    assert not desk.policies.granted
    desk.off = 0.0
    await desk.requests.read()
    assert len(desk.policies.granted) == 1


async def test_a_yes_beside_an_answer_that_breaks_off_is_in_force_at_the_next_one(
    desk: Desk, liar: LyingStore, store: RedisServer
) -> None:
    now = time.time()
    decision = replace(DECISION, decided=now, ends=now + 600)
    offer(store, decision.request, seal_decision(decision, APPROVER))
    told: list[tuple[Rule, ...]] = []
    change = desk.requests.in_force._on_change

    def tell(rules: tuple[Rule, ...]) -> None:
        told.append(rules)
        change(rules)

    desk.requests.in_force._on_change = tell
    liar.lie = lambda command, answer: [*answer, b"x"] if runs(command, READ) else answer
    with pytest.raises(ValueError, match="no reading of requests"):
        await desk.requests.read()
    liar.lie = None
    await desk.requests.read()
    assert [len(rules) for rules in told] == [1]
    assert len(desk.policies.granted) == 1
