"""CONNECTs that the native plane has no verdict on: Python is asked for one, and the plane goes on or Python does.

Addresses are asked for here: a name that has to be looked up first is Python's.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Iterator

import pytest

from cloned_proxy.policy.model.model import Limits
from cloned_proxy.policy.terms.decision import Decision
from cloned_proxy.policy.terms.rule import Address
from cloned_proxy.proxy.plane import verdicts
from cloned_proxy.proxy.plane.questions import Questions
from cloned_proxy.proxy.plane.verdicts import Verdicts
from cloned_proxy.telemetry.events import DecisionEvent
from tests.proxy.plane.looks import DEMO, granted, plane_of
from tests.proxy.support import (
    SERVING,
    World,
    allow,
    connect_head,
    hello,
    need_plane,
    policy,
    until,
    upstream,
    world,
)

_THERE = "127.0.0.1"
_HANDED_OVER = 2
"""In what `plane_numbers` tells."""


_ONCE = 30.0
"""Seconds that a first verdict lasts here: none ends while a test runs. Others last 60, by the resolver of a world."""


@pytest.fixture(autouse=True)
def _native(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    need_plane()
    monkeypatch.setattr(verdicts, "_ONCE", _ONCE)
    SERVING.native = True
    yield
    SERVING.native, SERVING.threads = False, 1


def _asked(w: World) -> int:
    """How often a connection went to Python."""
    return plane_of(w)._told()[_HANDED_OVER]


async def _pass(w: World, port: int, host: str = _THERE) -> None:
    """One tunnel, with an answer through it."""
    first = hello(None)
    reader, writer = await w.tunnel(port, host, first)
    await reader.readexactly(len(first))
    writer.transport.abort()


async def _events(w: World) -> list[DecisionEvent]:
    await w.settled()
    return [event for event in w.audit.events if isinstance(event, DecisionEvent)]


@pytest.mark.parametrize("threads", [1, 3])
async def test_the_first_tunnel_to_an_address_is_native_and_on_record_like_one_of_python(threads: int) -> None:
    SERVING.threads = threads
    async with upstream() as server:
        rule = allow(_THERE, server.port)
        async with world(rule, known=False) as w:
            for number in range(1, 5):
                await _pass(w, server.port)
                assert granted(w) == number
            native, ends = await _events(w), w.audit.ends
            assert _asked(w) == 1
            assert len(w.gate._connections) == 0
        SERVING.native = False
        async with world(rule, known=False) as w:
            await _pass(w, server.port)
            (python,) = await _events(w)
            (end,) = w.audit.ends
        assert {dataclasses.replace(event, id="", at=0.0) for event in native} == {
            dataclasses.replace(python, id="", at=0.0)
        }
        assert len({event.id for event in native}) == 4
        assert {each.cause for each in ends} == {end.cause}
        assert {each.bytes_up for each in ends} == {end.bytes_up}


async def test_what_is_asked_for_once_is_forgotten_soon_and_what_comes_again_is_kept() -> None:
    async with upstream() as server, world(allow(_THERE, server.port), known=False) as w:
        await _pass(w, server.port)
        (once,) = plane_of(w)._verdicts.known.values()
        assert once.expires <= time.monotonic() + _ONCE
        once.expires = 0.0  # as if it were so late
        await w.settled()
        w.gate.sweep()
        assert list(plane_of(w)._verdicts.known) == []
        await _pass(w, server.port)
        (again,) = plane_of(w)._verdicts.known.values()
        assert again.expires > time.monotonic() + _ONCE
        assert _asked(w) == 2


@pytest.mark.parametrize("limits", [Limits(concurrent=1), Limits(requests_per_minute=1)])
async def test_limits_hold_and_who_is_over_one_is_told_by_python(limits: Limits) -> None:
    async with upstream() as server:
        current = policy(allow(_THERE, server.port), limits=limits)
        async with world(current=current, principal=DEMO, known=False) as w:
            first = hello(None)
            reader, writer = await w.tunnel(server.port, _THERE, first)
            await reader.readexactly(len(first))
            for asked in (2, 3):
                reply = await w.ask(connect_head(server.port, _THERE))
                assert (reply.status, reply.json["reason"]) == (429, "limit_exceeded")
                assert _asked(w) == asked  # where there is a verdict, it is not asked for one once more
            writer.transport.abort()
            await w.settled()
            assert [event.verdict for event in await _events(w)] == ["allow", "deny", "deny"]


async def test_python_is_asked_once_about_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be wrong: what it has published can be taken back before the plane looks."""
    async with upstream() as server, world(allow(_THERE, server.port), known=False) as w:
        questions: list[object] = []

        def wrong_once(*question: object) -> bool:
            questions.append(question)
            return len(questions) == 1

        monkeypatch.setattr(Verdicts, "answer", wrong_once)
        await _pass(w, server.port)
        assert len(questions) == 1
        assert (granted(w), _asked(w)) == (0, 2)
        assert [event.verdict for event in await _events(w)] == ["allow"]


async def test_a_question_that_fails_is_answered_by_the_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bool:
        raise ValueError("a fault")

    async with upstream() as server, world(allow(_THERE, server.port), known=False) as w:
        monkeypatch.setattr(Verdicts, "answer", fail)
        await _pass(w, server.port)
        assert granted(w) == 0
        await w.settled()


async def test_a_head_that_the_gate_refuses_is_read_once_and_refused_there() -> None:
    async with world(known=False) as w:
        reply = await w.ask(connect_head(443, "127.0.0.9"))
        assert reply.status == 403
        assert (granted(w), _asked(w)) == (0, 1)
        (event,) = await _events(w)
        assert (event.verdict, event.host) == ("deny", "127.0.0.9")


async def test_a_client_that_goes_while_python_is_asked_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with upstream() as server, world(allow(_THERE, server.port), known=False) as w:
        settle = Questions.settle

        def late(self: Questions, *arguments: object) -> bool:
            writer.transport.abort()
            return settle(self, *arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(Questions, "settle", late)
        _, writer = await w.connect()
        writer.write(connect_head(server.port, _THERE))
        await until(lambda: _asked(w) == 1)
        await w.settled()
        assert len(w.audit.ends) == len(w.audit.verdicts)


async def test_a_listener_that_closes_meanwhile_takes_its_clients_along(monkeypatch: pytest.MonkeyPatch) -> None:
    async with upstream() as server, world(allow(_THERE, server.port), known=False) as w:
        settle = Questions.settle

        def closing(self: Questions, *arguments: object) -> bool:
            settled = settle(self, *arguments)  # type: ignore[arg-type]
            w.gate.close(w.listener)
            return settled

        monkeypatch.setattr(Questions, "settle", closing)
        reader, writer = await w.connect()
        writer.write(connect_head(server.port, _THERE))
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readuntil(b"\r\n\r\n")
        await w.settled()


def _own(w: World, port: int) -> None:
    w.own.add_address(_THERE, port)


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "a build without the check"])
async def test_no_byte_goes_where_a_question_would_lead_past_a_check(
    guarded: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The rule allows the address, on which the proxy itself listens by now: `Foresight` is to see that."""
    async with upstream() as server, world(allow(_THERE, server.port), known=False) as w:
        _own(w, server.port)
        if not guarded:
            unchecked = w.enforcer.prospect.__self__  # type: ignore[attr-defined]
            monkeypatch.setattr(unchecked, "_places", _Unchecked())
        reader, writer = await w.connect()
        writer.write(connect_head(server.port, _THERE) + hello(None))
        answer = await reader.readuntil(b"\r\n\r\n")
        if guarded:
            assert answer.startswith(b"HTTP/1.1 403 ")
            assert server.connections == 0
        else:
            assert answer.startswith(b"HTTP/1.1 200 ")
            await until(lambda: bool(server.received))
        writer.transport.abort()
        await w.settled()


class _Unchecked:
    """`Places` that lead anywhere."""

    def known(self, host: object) -> tuple[Address, ...]:
        address = getattr(host, "address", None)
        assert address is not None
        return (address,)

    def judged(self, decision: Decision, _addresses: tuple[Address, ...]) -> Decision:
        return decision
