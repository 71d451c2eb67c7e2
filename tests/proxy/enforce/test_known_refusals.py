"""Refusals that are told again without being decided again: never past a change of the policy, never unrecorded."""

from __future__ import annotations

import time

import pytest

from cloned_proxy.policy.callers.identity import OwnTokens
from cloned_proxy.policy.model.model import Limits
from cloned_proxy.proxy.enforce import known_refusals
from cloned_proxy.proxy.enforce.known_refusals import KnownRefusals
from tests.proxy.enforce.refusing import EVIL, NEXT_KEY, Keyring, with_next_key
from tests.proxy.support import (
    HOST,
    KEY,
    World,
    allow,
    connect_head,
    policy,
    upstream,
    world,
)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The answers that were known."""
    found: list[bytes] = []
    original = KnownRefusals.answer

    def answer(self: KnownRefusals, listener: object, head: bytes) -> bytes | None:
        known = original(self, listener, head)  # type: ignore[arg-type]
        if known is not None:
            found.append(known)
        return known

    monkeypatch.setattr(KnownRefusals, "answer", answer)
    return found


async def ids(w: World, head: bytes, times: int) -> list[str]:
    return [str((await w.ask(head)).json["decision_id"]) for _ in range(times)]


async def test_each_has_its_id_and_is_on_record_under_it(told: list[bytes]) -> None:
    async with world() as w:
        found = await ids(w, connect_head(443, EVIL), 5)
        assert len(set(found)) == 5
        assert w.audit.ids == found
    assert len(told) >= 1


async def test_what_the_policy_opens_meanwhile_is_not_refused_by_what_was_known(told: list[bytes]) -> None:
    async with upstream() as server, world() as w:
        head = connect_head(server.port)
        assert [(await w.ask(head)).status for _ in range(2)] == [403, 403]
        w.policies.current = policy(allow(HOST, server.port))
        w.gate.sweep()  # as at each new policy
        reader, writer = await w.connect()
        writer.write(head)
        assert (await reader.readline()).split()[1] == b"200"
        writer.transport.abort()


async def test_a_log_that_fails_refuses_with_503_whatever_is_known(told: list[bytes]) -> None:
    async with world() as w:
        head = connect_head(443, EVIL)
        await ids(w, head, 2)
        w.audit.broken = True
        assert (await w.ask(head)).status == 503


async def test_a_credential_and_another_host_are_another_answer(told: list[bytes]) -> None:
    async with world() as w:
        await ids(w, connect_head(443, EVIL), 2)
        assert (await w.ask(connect_head(443, EVIL, headers="X-Cloned-Tool-Token: forged\r\n"))).status == 407
        assert (await w.ask(connect_head(443, "other.example.net"))).json["host"] == "other.example.net"


async def test_what_is_known_counts_against_the_budget(told: list[bytes]) -> None:
    async with world(current=policy(limits=Limits(requests_per_minute=5)), denials=3) as w:
        head = connect_head(443, EVIL)
        assert [(await w.ask(head)).status for _ in range(5)] == [403, 403, 403, 429, 429]


async def test_a_token_that_is_genuine_by_a_new_key_is_not_refused_by_what_was_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(known_refusals, "_SECONDS", 3600.0)
    keys = Keyring()
    async with world(tokens=keys) as w:
        assert [(await w.ask(with_next_key())).status for _ in range(2)] == [407, 407]
        keys.rotate(NEXT_KEY)  # nobody has swept yet
        assert (await w.ask(with_next_key())).status == 403


async def test_what_is_known_is_forgotten_when_the_clock_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_refusals, "_SECONDS", 3600.0)
    ahead = [0.0]
    async with world() as w:
        refusals = KnownRefusals(w.enforcer, OwnTokens(KEY), lambda: time.monotonic() + ahead[0])
        assert [refusals.forget_what_is_old() for _ in range(2)] == [True, False]
        for ahead[0] in (60.0, -60.0):
            assert [refusals.forget_what_is_old() for _ in range(2)] == [True, False]


async def test_no_head_is_kept_and_each_sweep_clears_what_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_refusals, "_SECONDS", 3600.0)
    async with world() as w:
        refusals = w.gate._services.refusals
        await w.ask(connect_head(443, EVIL, headers="X-Cloned-Tool-Token: forged\r\n"))
        assert len(refusals._known) == 1
        assert "forged" not in repr(refusals._known)
        w.gate.sweep()
        assert refusals._known
        refusals._until = 0.0
        w.gate.sweep()
        assert not refusals._known
