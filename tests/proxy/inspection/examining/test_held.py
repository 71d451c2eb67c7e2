"""What bodies that are held take together is bounded; nobody is refused for it, and nobody waits for ever."""

from __future__ import annotations

import asyncio

from cloned_proxy.proxy.inspection.examining.held import HeldBodies


async def test_over_the_bound_a_body_waits_until_another_one_is_gone() -> None:
    bodies = HeldBodies(100)
    first, second, other = bodies.body("a"), bodies.body("a"), bodies.body("b")
    first.note(60)
    second.note(39)
    assert second.may_grow
    second.note(40)
    assert not second.may_grow
    assert first.may_grow, "each caller's oldest body goes on, or all would wait for each other"
    assert other.may_grow, "a caller that holds nothing waits for nobody"
    other.note(10)
    waiting = asyncio.ensure_future(second.room())
    await asyncio.sleep(0)
    first.note(70)  # a body that grows frees nothing
    await asyncio.sleep(0)
    assert not waiting.done()
    first.note(0)
    await waiting
    assert bodies.total == 50


async def test_the_next_oldest_takes_the_place_of_one_that_is_gone() -> None:
    bodies = HeldBodies(10)
    made = [bodies.body("a") for _ in range(3)]
    for body in made:
        body.note(10)
    assert [body.may_grow for body in made] == [True, False, False]
    made[0].note(0)
    assert [body.may_grow for body in made[1:]] == [True, False]
    for body in made:
        body.note(0)
        body.note(0)
    assert (bodies.total, bodies._held) == (0, {})


async def test_whoever_gives_up_waiting_leaves_the_rest_alone() -> None:
    bodies = HeldBodies(10)
    first, second = bodies.body("a"), bodies.body("a")
    first.note(10)
    second.note(1)
    waiting = [asyncio.ensure_future(second.room()) for _ in range(2)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    first.note(0)
    await waiting[1]
