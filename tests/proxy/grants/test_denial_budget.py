"""What one caller may have of recorded refusals, and how the others get their turn."""

from __future__ import annotations

import asyncio

import pytest

from cloned_proxy.policy.callers.caller import Principal
from cloned_proxy.policy.model.model import Limits
from cloned_proxy.proxy.grants import denial_budget
from cloned_proxy.proxy.grants.denial_budget import DenialBudget, Turnstile
from tests.proxy.support import connect_head, policy, until, world


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_budget_is_for_each_caller_and_comes_back_with_time() -> None:
    clock = Clock()
    budget = DenialBudget(clock, per_minute=3)
    assert [budget.spend("a", None) for _ in range(3)] == [None] * 3
    assert not budget.over("a")
    wait = budget.spend("a", None)
    assert wait is not None
    assert 0 < wait <= 61
    assert budget.over("a")
    assert not budget.over("b")
    assert budget.spend("b", None) is None
    clock.now += 61
    assert not budget.over("a")
    assert budget.spend("a", None) is None


def test_a_limit_of_the_policy_takes_the_place_of_the_default() -> None:
    budget = DenialBudget(Clock(), per_minute=1)
    assert [budget.spend("a", 2) for _ in range(2)] == [None, None]
    assert budget.spend("a", 2) is not None


def test_what_is_over_the_budget_does_not_prolong_it() -> None:
    clock = Clock()
    budget = DenialBudget(clock, per_minute=1)
    budget.spend("a", None)
    clock.now += 60
    assert budget.spend("a", None) is not None
    clock.now += 1
    assert budget.spend("a", None) is None


async def test_turns_come_in_order_some_at_a_time_and_who_has_left_takes_none() -> None:
    stile, passed = Turnstile(), list[int]()

    async def wait(number: int) -> None:
        await stile.turn()
        passed.append(number)

    tasks = [asyncio.create_task(wait(number)) for number in range(20)]
    await asyncio.sleep(0)
    for task in tasks[:10]:
        task.cancel()
    assert passed == []
    await until(lambda: bool(passed))
    assert 10 <= len(stile) + len(passed) <= 20 - denial_budget._AT_A_TURN + len(passed)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert passed == list(range(10, 20))
    assert len(stile) == 0


async def test_no_more_than_some_pass_at_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(denial_budget, "_TURN_SECONDS", 3600.0)
    stile = Turnstile()
    tasks = [asyncio.create_task(stile.turn()) for _ in range(20)]
    await asyncio.sleep(0)
    stile._let_through()
    assert len(stile) == 20 - denial_budget._AT_A_TURN == 16
    for task in tasks:
        task.cancel()


async def test_the_limit_of_a_tool_is_told_as_429_with_the_time_to_wait() -> None:
    current = policy(limits=Limits(denials_per_minute=1))
    async with world(current=current, principal=Principal("demo@v1")) as w:
        refused = connect_head(443, "evil.example.net")
        assert (await w.ask(refused)).status == 403
        answer = await w.ask(refused)
        assert answer.status == 429
        assert 0 < int(answer.fields["retry-after"]) <= 61
        assert b"denials_per_minute" in answer.body
        assert w.audit.verdicts == [("deny", "host_not_allowed"), ("deny", "limit_exceeded")]


async def test_so_many_wait_over_all_callers_and_who_is_one_more_is_answered_at_once() -> None:
    budget = DenialBudget(Clock(), most_waiting=2)
    waiting = [asyncio.create_task(budget.turn(tool)) for tool in ("a", "b")]
    await asyncio.sleep(0)  # both have begun; a turn is over in a few milliseconds, so a later look may find none
    assert budget.waiting("a") == budget.waiting("b") == 1
    third = asyncio.create_task(budget.turn("c"))
    await asyncio.sleep(0)
    assert third.done()
    await asyncio.gather(*waiting)
    again = asyncio.create_task(budget.turn("a"))
    await asyncio.sleep(0)
    assert not again.done()
    await again
