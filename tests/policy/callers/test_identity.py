from __future__ import annotations

import base64
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloned_proxy.policy.callers.caller import ANONYMOUS, CallerSource, IdentityRefusal, Principal
from cloned_proxy.policy.callers.identity import Claims, OwnTokens, identify, mint_token, proxy_url
from cloned_proxy.policy.callers.tool_id import is_tool_id
from cloned_proxy.policy.terms.vocabulary import Reason

KEY = b"k" * 32
GOOD = mint_token(KEY, Claims("a@v1", "run1", 100.0))
OTHER = mint_token(KEY, Claims("b@v1", "run2", 100.0))
OLD = mint_token(KEY, Claims("a@v1", "run1", 1.0))
FORGED = mint_token(b"x" * 32, Claims("a@v1", "run1", 100.0))
SLOT = Principal("a@v1", "slot", CallerSource.LISTENER)
PROVED = Principal("a@v1", "run1")


def _basic(user: str, token: str) -> tuple[str, str]:
    return "proxy-authorization", "Basic " + base64.b64encode(f"{user}:{token}".encode()).decode()


def _bearer(token: str) -> tuple[str, str]:
    return "proxy-authorization", f"Bearer {token}"


def _own(token: str) -> tuple[str, str]:
    return "x-cloned-tool-token", token


INVALID = IdentityRefusal(Reason.IDENTITY_INVALID)
EXPIRED = IdentityRefusal(Reason.IDENTITY_EXPIRED, "a@v1")
CASES = [
    ("nothing, anonymous", [], ANONYMOUS, ANONYMOUS),
    ("nothing, nameless listener", [], None, IdentityRefusal(Reason.IDENTITY_MISSING)),
    ("nothing, slot", [], SLOT, SLOT),
    ("bare tool name proves nothing", [("x-cloned-tool", "a@v1")], ANONYMOUS, ANONYMOUS),
    ("basic, raw", [_basic("a@v1", GOOD)], ANONYMOUS, PROVED),
    ("basic, encoded", [_basic("a%40v1", GOOD)], ANONYMOUS, PROVED),
    ("bearer", [_bearer(GOOD)], None, PROVED),
    ("own field", [_own(GOOD)], None, PROVED),
    ("both the same", [_own(GOOD), _bearer(GOOD)], None, PROVED),
    ("basic for another", [_basic("b@v1", GOOD)], None, IdentityRefusal(Reason.IDENTITY_MISMATCH, "a@v1")),
    ("two tools", [_own(OTHER), _bearer(GOOD)], None, INVALID),
    ("one twice", [_own(GOOD), _own(GOOD)], None, INVALID),
    ("good and bad", [_own(GOOD), _bearer("x")], None, INVALID),
    ("expired", [_own(OLD)], ANONYMOUS, EXPIRED),
    ("expired on its slot", [_own(OLD)], SLOT, replace(EXPIRED, inside=True)),
    ("forged", [_own(FORGED)], ANONYMOUS, INVALID),
    ("forged on its slot", [_own(FORGED)], SLOT, replace(INVALID, inside=True)),
    ("own on its slot", [_own(GOOD)], SLOT, SLOT),
    ("another's on a slot", [_own(OTHER)], SLOT, IdentityRefusal(Reason.IDENTITY_MISMATCH, "b@v1", inside=True)),
    ("digest", [("proxy-authorization", "Digest x")], ANONYMOUS, INVALID),
    ("bad base64", [("proxy-authorization", "Basic !!")], ANONYMOUS, INVALID),
    ("empty", [("proxy-authorization", "")], ANONYMOUS, INVALID),
    ("not ascii", [_own("é.é")], ANONYMOUS, INVALID),
    ("non-ascii base64", [("proxy-authorization", "Basic é")], ANONYMOUS, INVALID),
    ("giant", [_own("x" * 100_000)], ANONYMOUS, INVALID),
]


@pytest.mark.parametrize(("headers", "listener", "caller"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_identify(headers: list[tuple[str, str]], listener: Principal | None, caller: object) -> None:
    assert identify(headers, tokens=OwnTokens(KEY), now=50.0, listener=listener) == caller


@given(st.integers(0, len(GOOD) * 8 - 1))
def test_any_flipped_bit_of_a_token_is_refused(bit: int) -> None:
    flipped = bytearray(GOOD.encode())
    flipped[bit // 8] ^= 1 << bit % 8
    assert identify([_own(flipped.decode("latin-1"))], tokens=OwnTokens(KEY), now=50.0, listener=ANONYMOUS) == INVALID


@pytest.mark.parametrize("tool", ["", "global", "_unknown", "a b", "a:b", "a\n", "é", "a" * 200])
def test_no_token_for_what_is_no_tool(tool: str) -> None:
    assert not is_tool_id(tool)
    with pytest.raises(ValueError, match="not a tool id"):
        mint_token(KEY, Claims(tool, "run", 1.0))


def test_a_short_key_signs_nothing() -> None:
    with pytest.raises(ValueError, match="needs 32"):
        mint_token(b"short", Claims("a", "run", 1.0))


def test_the_proxy_url_is_ready_for_a_client() -> None:
    assert proxy_url("a@v1", "v1.x.y", "127.0.0.1:8081") == "http://a%40v1:v1.x.y@127.0.0.1:8081"
