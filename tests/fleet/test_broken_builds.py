"""Each guard taken out once: the attack that it stops succeeds then, so the tests that see it fail can fail."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from cloned_proxy.fleet.signed import envelope as envelope_module
from cloned_proxy.fleet.signed import statement as statement_module
from cloned_proxy.fleet.signed.envelope import seal
from cloned_proxy.fleet.signed.errors import EnvelopeError
from cloned_proxy.fleet.signed.keys import SigningKey
from cloned_proxy.fleet.signed.statement import NOTHING, PAYLOAD_TYPE
from cloned_proxy.fleet.signed_policy import replica as replica_module
from cloned_proxy.fleet.signed_policy.kept import Kept
from tests.fleet.conftest import RedisServer
from tests.fleet.replicas import Replica, envelope, place, policy_for, put_into

KEY, STRANGER = SigningKey.generate(), SigningKey.generate()
type Break = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture
async def attacked(tmp_path: Path, store: RedisServer) -> AsyncIterator[Replica]:
    put_into(store, policy_for("old.example"), 1, KEY)
    one = await Replica(tmp_path / "a", store=store.url, trust=[KEY.public], poll="1s").start()
    await one.until_version(1)
    yield one
    await one.stop()


def unsigned(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(envelope_module.Trust, "_signer_of", lambda self, envelope: KEY.id)


def any_fleet(patch: pytest.MonkeyPatch) -> None:
    original = statement_module.open_statement

    def lenient(raw: bytes, fleet: str, trust: Any) -> Any:
        try:
            return original(raw, fleet, trust)
        except EnvelopeError:
            return original(raw, "other", trust)

    patch.setattr(replica_module, "open_statement", lenient)


def any_number(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Kept, "check", lambda self, statement: None)


def forged() -> bytes:
    return envelope(policy_for("evil.example"), 2, STRANGER)


def foreign() -> bytes:
    return envelope(policy_for("evil.example"), 2, KEY, fleet="other")


def replayed() -> bytes:
    return envelope(policy_for("evil.example"), 1, KEY)


@pytest.mark.parametrize(
    ("attack", "guard", "reason"),
    [(forged, unsigned, "signature"), (foreign, any_fleet, "fleet"), (replayed, any_number, "conflict")],
)
async def test_without_its_guard_the_attack_opens(  # noqa: PLR0917  a row and its fixtures
    attacked: Replica,
    store: RedisServer,
    attack: Callable[[], bytes],
    guard: Break,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place(store, attack(), 2)
    await attacked.until_refused(reason)
    assert not attacked.allows("evil.example")
    if guard is any_number:  # else it takes the same number for the same policy
        attacked.policy.number = NOTHING
    guard(monkeypatch)
    place(store, attack(), 2)
    await attacked.until(lambda: attacked.allows("evil.example"))


async def test_without_the_hash_another_policy_is_taken(
    attacked: Replica, store: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Same(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            return True

        def __ne__(self, other: object) -> bool:
            return False

    raw = seal(
        json.dumps(
            {
                "fleet": "acme", "epoch": 1, "version": 2, "sha256": "0" * 64,
                "issued_at": "2026-11-28T00:00:00+00:00", "author": "me", "reason": "", "presets": {},
                "policy": policy_for("evil.example").decode(),
            }
        ).encode(),
        PAYLOAD_TYPE,
        [KEY],
    )  # fmt: skip
    place(store, raw, 2)
    await attacked.until_refused("hash")
    assert not attacked.allows("evil.example")
    monkeypatch.setattr(statement_module.Statement, "sha256", property(lambda self: Same("x")))
    place(store, raw, 2)
    await attacked.until(lambda: attacked.allows("evil.example"))


async def test_without_the_file_a_restart_forgets_what_was_newer(
    attacked: Replica, store: RedisServer, tmp_path: Path
) -> None:
    put_into(store, policy_for("new.example"), 2, KEY)
    await attacked.until_version(2)
    await attacked.stop()
    put_into(store, policy_for("old.example"), 1, KEY)
    again = await Replica(tmp_path / "a", store=store.url, trust=[KEY.public], poll="1s").start()
    await again.until_refused("rollback")
    assert not again.allows("old.example")
    await again.stop()
    await asyncio.to_thread((tmp_path / "a" / "fleet" / "policy.dsse.json").unlink)
    without = await Replica(tmp_path / "a", store=store.url, trust=[KEY.public], poll="1s").start()
    await without.until_version(1)
    assert without.allows("old.example")
    await without.stop()
