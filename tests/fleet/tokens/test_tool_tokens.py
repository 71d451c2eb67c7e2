"""What a token has to be to name a tool, check by check: each one is seen to let its attack through once it is gone."""

from __future__ import annotations

import base64
import contextlib
import json
import time
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloned_proxy.fleet.signed.keys import SigningKey
from cloned_proxy.fleet.tokens.token_form import Fault, TokenError, read_token
from cloned_proxy.fleet.tokens.tool_tokens import LEEWAY, FleetTokens, mint_tool_token
from cloned_proxy.policy.callers.caller import ANONYMOUS, IdentityRefusal, Principal
from cloned_proxy.policy.callers.identity import Claims, credentials_expire, identify, mint_token
from cloned_proxy.policy.model.model import Policy, Scope
from cloned_proxy.policy.terms.host_index import HostIndex
from cloned_proxy.policy.terms.vocabulary import Reason
from tests.fleet import token_guards as gone
from tests.fleet.minting import (
    CI,
    CLUSTER,
    EC,
    ED,
    FLEET,
    NOW,
    OWN_KEY,
    REPLICA,
    RSA,
    RSA_OF_CI,
    SUBJECT,
    TOOL,
    Verifying,
    fleet_claims,
    fleet_header,
    jwk,
    jwks,
    pod_claims,
    pod_header,
    public_bytes,
    sealed,
    verifying,
)
from tests.proxy.plane.looks import granted
from tests.proxy.support import HOST, SERVING, World, allow, connect_head, hello, need_plane, upstream, world

GENUINE = mint_tool_token(SigningKey(ED), Claims(TOOL, "run-1", NOW + 60), fleet=FLEET, now=NOW)
POD = sealed(pod_header(), pod_claims(), RSA)
PRINCIPAL = Principal(TOOL, "run-1")


async def test_what_the_fleet_signs_names_its_tool() -> None:
    assert (await verifying()).tokens.claims(GENUINE, NOW) == Claims(TOOL, "run-1", NOW + 60 + LEEWAY)
    assert jwt.get_unverified_header(GENUINE)["typ"] == "cloned-tool+jwt"
    assert set(jwt.decode(GENUINE, options={"verify_signature": False})) == {"sub", "aud", "iat", "nbf", "exp", "jti"}


@pytest.mark.parametrize(
    ("header", "key"),
    [(pod_header(), RSA), (pod_header(alg="ES256", kid="k2"), EC), (fleet_header(typ="JWT", kid="k3"), ED)],
)
async def test_what_an_issuer_signs_names_the_tool_of_its_subject(header: dict[str, Any], key: Any) -> None:
    found = (await verifying()).tokens.claims(sealed(header, pod_claims(), key), NOW)
    assert found == Claims(TOOL, "search-7d9f", NOW + 86_400 + LEEWAY)


@pytest.mark.parametrize(
    ("claims", "run"),
    [({"kubernetes.io": {}}, "j"), ({"kubernetes.io": {"pod": {"name": "a b"}}, "jti": "a b"}, "token-")],
)
async def test_what_a_run_is_called(claims: dict[str, Any], run: str) -> None:
    found = (await verifying()).tokens.claims(sealed(pod_header(), pod_claims(**claims), RSA), NOW)
    assert found is not None
    assert found.run.startswith(run)


def twice(text: dict[str, Any], **more: Any) -> bytes:
    """A JSON object with members that are there twice; most readers take the last one."""
    return json.dumps(text).encode()[:-1] + b"," + json.dumps(more).encode()[1:]


def unsigned(header: dict[str, Any], claims: dict[str, Any]) -> str:
    return sealed(header, claims, None) + "AA"


EVIL = pod_header(kid="mine", alg="EdDSA", jwk=jwk(REPLICA, "mine"), jku="https://evil.example/jwks")
ATTACKS: dict[str, tuple[str, Fault, gone.Gone]] = {
    "alg none": (unsigned(fleet_header(alg="none"), fleet_claims()), Fault.ALGORITHM, gone.algorithm_of_the_token),
    "alg none, issuer": (unsigned(pod_header(alg="none"), pod_claims()), Fault.ALGORITHM, gone.algorithm_of_the_token),
    "HS256 with the fleet's public key": (
        sealed(fleet_header(alg="HS256"), fleet_claims(), public_bytes(ED.public_key())),
        Fault.ALGORITHM,
        gone.algorithm_of_the_token,
    ),
    "HS256 with an issuer's public key": (
        sealed(pod_header(alg="HS256"), pod_claims(), public_bytes(RSA.public_key())),
        Fault.ALGORITHM,
        gone.algorithm_of_the_token,
    ),
    "alg of another family": (sealed(pod_header(alg="ES256"), pod_claims(), RSA), Fault.ALGORITHM, gone.any_algorithm),
    "aud of another fleet": (
        sealed(fleet_header(), fleet_claims(aud="staging"), ED),
        Fault.AUDIENCE,
        gone.without("verify_aud"),
    ),
    "aud of several fleets": (
        sealed(fleet_header(), fleet_claims(aud=["staging", FLEET]), ED),
        Fault.AUDIENCE,
        gone.without("strict_aud"),
    ),
    "aud of the cluster's own API": (
        sealed(pod_header(), pod_claims(aud=["https://kubernetes.default.svc"]), RSA),
        Fault.AUDIENCE,
        gone.without("verify_aud"),
    ),
    "kid of another issuer": (
        sealed(pod_header(kid="ci-1"), pod_claims(), RSA_OF_CI),
        Fault.KEY,
        gone.one_heap_of_keys,
    ),
    "sub of another issuer's map": (
        sealed(pod_header(kid="ci-1"), pod_claims(iss=CI), RSA_OF_CI),
        Fault.SUBJECT,
        gone.one_map_for_all,
    ),
    "a key of its own in the header": (sealed(EVIL, pod_claims(), REPLICA), Fault.KEY, gone.key_of_the_header),
    "a replica's key": (sealed(fleet_header(REPLICA), fleet_claims(), REPLICA), Fault.KEY, gone.replicas_count),
    "a replica's key under the fleet's kid": (
        sealed(fleet_header(), fleet_claims(), REPLICA),
        Fault.SIGNATURE,
        gone.any_key_of_that_name,
    ),
    "typ of something else that the key signs": (
        sealed(pod_header(typ="logout+jwt"), pod_claims(), RSA),
        Fault.TYPE,
        gone.any_type,
    ),
    "typ of the fleet on an issuer's token": (
        sealed(pod_header(typ="application/cloned-tool+jwt"), pod_claims(), RSA),
        Fault.KEY,
        gone.any_type,
    ),
    "crit": (sealed(pod_header(crit=["exp"]), pod_claims(), RSA), Fault.EXTENSION, gone.any_extension),
    "nested": (sealed(pod_header(cty="JWT"), pod_claims(), RSA), Fault.EXTENSION, gone.any_extension),
    "a claim twice": (
        sealed(pod_header(), twice(pod_claims(sub="system:serviceaccount:a:b"), sub=SUBJECT), RSA),
        Fault.MALFORMED,
        gone.the_last_member_counts,
    ),
    "a header member twice": (
        sealed(twice(pod_header(alg="none"), alg="RS256"), pod_claims(), RSA),
        Fault.MALFORMED,
        gone.the_last_member_counts,
    ),
    "oversize": (sealed(pod_header(), pod_claims(groups="g" * 6000), RSA), Fault.MALFORMED, gone.any_size),
    "not yet": (sealed(fleet_header(), fleet_claims(nbf=NOW + 31), ED), Fault.TIME, gone.any_time),
    "of the future": (sealed(pod_header(), pod_claims(iat=NOW + 31), RSA), Fault.TIME, gone.any_time),
    "a subject that is not mapped": (
        sealed(pod_header(), pod_claims(sub="system:serviceaccount:agents:other"), RSA),
        Fault.SUBJECT,
        gone.everybody_mapped,
    ),
    "an issuer that is not named": (
        sealed(pod_header(), pod_claims(iss="https://evil.example"), RSA),
        Fault.ISSUER,
        gone.any_issuer,
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
async def test_an_attack_that_only_its_guard_stops(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    token, fault, guard = ATTACKS[name]
    assert (await verifying()).fault_of(token) is fault
    broken = await verifying()
    guard(monkeypatch, broken)
    assert broken.fault_of(token) is None, "without its guard the attack is real"


FORMS = {
    "two parts": "a.b",
    "encrypted (five parts)": "a.b.c.d.e",
    "padding": GENUINE + "=",
    "another spelling of its last character": GENUINE[:-1] + chr(ord(GENUINE[-1]) + 1),
    "a header that is a list": sealed(b'["alg"]', fleet_claims(), ED),
    "claims that are a token": sealed(fleet_header(), json.dumps(POD).encode(), ED),
    "no number": sealed(fleet_header(), twice(fleet_claims(), nan=float("nan")), ED),
    "nested deeply": sealed(fleet_header(), b"[" * 4000, ED),
    "half of a surrogate pair": sealed(fleet_header(), b'{"sub": "\xed\xa0\x80"}', ED),
    "no sub": sealed(fleet_header(), {k: v for k, v in fleet_claims().items() if k != "sub"}, ED),
    "no exp": sealed(pod_header(), {k: v for k, v in pod_claims().items() if k != "exp"}, RSA),
    "aud that is no text": sealed(pod_header(), pod_claims(aud=[7]), RSA),
}


@pytest.mark.parametrize("name", FORMS)
async def test_what_is_no_token(name: str) -> None:
    assert (await verifying()).fault_of(FORMS[name]) in {Fault.MALFORMED, Fault.SIGNATURE, Fault.AUDIENCE}


@pytest.mark.parametrize("value", [True, "1800000600", None, [], float("inf"), 1e300, -1, 10**40])
@pytest.mark.parametrize("name", ["exp", "nbf"])
async def test_a_time_that_is_none(name: str, value: object) -> None:
    found = (await verifying()).fault_of(sealed(fleet_header(), fleet_claims(**{name: value}), ED))
    assert found in {Fault.TIME, Fault.MALFORMED}


@pytest.mark.parametrize("claims", [{"sub": "global"}, {"sub": "a b"}, {"jti": "a/b"}, {"jti": ""}])
async def test_a_name_that_no_tool_or_run_has(claims: dict[str, Any]) -> None:
    found = (await verifying()).fault_of(sealed(fleet_header(), fleet_claims(**claims), ED))
    assert found in {Fault.SUBJECT, Fault.MALFORMED}


MADE = st.binary(max_size=300).map(lambda raw: f"e30.{base64.urlsafe_b64encode(raw).rstrip(b'=').decode()}.AA")


@given(st.text(max_size=300) | MADE)
def test_reading_never_raises_anything_else(text: str) -> None:
    with contextlib.suppress(TokenError):
        read_token(text)


# As a caller sends it. ------------------------------------------------------------------------------------------------


def basic(user: str, token: str) -> tuple[str, str]:
    return "proxy-authorization", "Basic " + base64.b64encode(f"{user}:{token}".encode()).decode()


def bearer(token: str) -> tuple[str, str]:
    return "proxy-authorization", f"Bearer {token}"


CALLERS = {
    "basic": ([basic(TOOL, GENUINE)], NOW, PRINCIPAL),
    "basic, encoded": ([basic("search.tool%40v1", GENUINE)], NOW, PRINCIPAL),
    "basic for another tool": ([basic("b@v1", GENUINE)], NOW, IdentityRefusal(Reason.IDENTITY_MISMATCH, TOOL)),
    "bearer": ([bearer(GENUINE)], NOW, PRINCIPAL),
    "own field": ([("x-cloned-tool-token", GENUINE)], NOW, PRINCIPAL),
    "a pod": ([bearer(POD)], NOW, Principal(TOOL, "search-7d9f")),
    "a pod, basic": ([basic(TOOL, POD)], NOW, Principal(TOOL, "search-7d9f")),
    "within the leeway": ([bearer(GENUINE)], NOW + 89, PRINCIPAL),
    "over": ([bearer(GENUINE)], NOW + 90, IdentityRefusal(Reason.IDENTITY_EXPIRED, TOOL)),
    "forged": ([bearer(ATTACKS["alg none"][0])], NOW, IdentityRefusal(Reason.IDENTITY_INVALID)),
    "two that differ": ([bearer(GENUINE), ("x-cloned-tool-token", POD)], NOW, IdentityRefusal(Reason.IDENTITY_INVALID)),
    "of the workspace": ([bearer(mint_token(OWN_KEY, Claims("a@v1", "r", NOW + 9)))], NOW, Principal("a@v1", "r")),
    "of another workspace": (
        [bearer(mint_token(b"x" * 32, Claims("a@v1", "r", NOW + 9)))],
        NOW,
        IdentityRefusal(Reason.IDENTITY_INVALID),
    ),
}


@pytest.mark.parametrize("name", CALLERS)
async def test_who_sent_a_head(name: str) -> None:
    headers, now, caller = CALLERS[name]
    tokens = (await verifying()).tokens
    for _ in range(2):  # the second time by what was remembered
        assert identify(headers, tokens=tokens, now=now, listener=ANONYMOUS) == caller


# What is remembered. --------------------------------------------------------------------------------------------------


async def test_a_token_is_verified_once_until_a_key_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    place = await verifying()
    decoded: list[str] = []
    original = jwt.decode

    def decode(token: str, *rest: Any, **more: Any) -> Any:
        decoded.append(token)
        return original(token, *rest, **more)

    monkeypatch.setattr(jwt, "decode", decode)
    for _ in range(5):
        assert place.fault_of(POD) is None
    assert decoded == [POD]
    before = place.tokens.generation
    told: list[int] = []
    place.tokens.at_change.add(lambda: told.append(place.tokens.generation))
    place.sources[CLUSTER].text = jwks(jwk(EC, "k1"))  # the same name for another key
    assert await place.issuers[CLUSTER].load()
    assert told == [before + 1]
    assert place.fault_of(POD) is Fault.ALGORITHM


async def test_what_is_remembered_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloned_proxy.fleet.tokens.tool_tokens._REMEMBERED", 3)
    place = await verifying()
    made = [sealed(fleet_header(), fleet_claims(jti=f"r{number}"), ED) for number in range(5)]
    assert [place.fault_of(token) for token in made] == [None] * 5
    assert list(place.tokens._verified) == made[2:]


async def test_a_clock_that_is_set_back_makes_a_remembered_token_wait_again() -> None:
    place = await verifying()
    assert place.fault_of(GENUINE) is None
    assert place.fault_of(GENUINE, NOW - LEEWAY - 1) is Fault.TIME
    assert credentials_expire([bearer(GENUINE)], tokens=place.tokens, now=NOW) == NOW + 60 + LEEWAY


# By bytes that reach a server, through a whole gate. ------------------------------------------------------------------

CANARIES = [
    "alg none",
    "HS256 with the fleet's public key",
    "aud of another fleet",
    "kid of another issuer",
    "a replica's key",
    "an issuer that is not named",
]


@contextlib.asynccontextmanager
async def gate(port: int, place: Verifying) -> AsyncIterator[World]:
    """Where the tool alone may reach the server at that port."""
    rules = Policy("v1", tools={TOOL: Scope(allow=HostIndex([allow(HOST, port)]))})
    async with world(current=rules, tokens=place.tokens, principal=ANONYMOUS, known=False) as w:
        yield w


async def ask(w: World, port: int, token: str) -> int:
    """The status of a CONNECT; behind a 200 a ClientHello follows, and is waited for where it arrives."""
    reader, writer = await w.connect()
    writer.write(connect_head(port, headers=f"Proxy-Authorization: Bearer {token}\r\n") + hello())
    status = int((await reader.readuntil(b"\r\n\r\n"))[9:12])
    if status == HTTPStatus.OK:
        await reader.readexactly(len(hello()))  # the server echoes it
    writer.transport.abort()
    await w.settled()
    return status


async def reaches(token: str, guard: gone.Gone | None, patch: pytest.MonkeyPatch) -> bool:
    """Whether a caller's bytes arrive at a server that only the tool may reach."""
    place = await verifying()
    if guard is not None:
        guard(patch, place)
    async with upstream() as server, gate(server.port, place) as w:
        await ask(w, server.port, token)
        return bool(server.received)


@pytest.mark.parametrize("name", CANARIES)
async def test_no_byte_of_an_attacker_arrives(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    token, _, guard = ATTACKS[name]
    assert not await reaches(token, None, monkeypatch)
    assert await reaches(token, guard, monkeypatch)


async def test_every_byte_of_the_tool_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await reaches(sealed(fleet_header(), fleet_claims(), ED), None, monkeypatch)
    assert await reaches(POD, None, monkeypatch)


@pytest.mark.parametrize("unguarded", [False, True])
async def test_the_native_plane_grants_nothing_by_a_key_that_is_gone(
    unguarded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_plane()
    monkeypatch.setattr(SERVING, "native", True)
    if unguarded:
        monkeypatch.setattr(FleetTokens, "changed", lambda tokens: tokens._verified.clear())
    place = await verifying()
    async with upstream() as server, gate(server.port, place) as w:
        assert w.plane is not None
        assert [await ask(w, server.port, POD) for _ in range(4)] == [200] * 4  # the plane hears of the second
        assert granted(w) == 2
        place.sources[CLUSTER].text = jwks(jwk(EC, "k2"))
        assert await place.issuers[CLUSTER].load()
        assert await ask(w, server.port, POD) == (200 if unguarded else 407)


async def test_the_native_plane_grants_nothing_by_a_token_that_is_over() -> None:
    need_plane()
    place = await verifying()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SERVING, "native", True)
        async with upstream() as server, gate(server.port, place) as w:
            token = sealed(fleet_header(), fleet_claims(exp=time.time() + 600), ED)
            assert [await ask(w, server.port, token) for _ in range(2)] == [HTTPStatus.OK] * 2
            assert w.plane is not None
            (published,) = w.plane._verdicts.known.values()
            assert 0 < published.expires - time.monotonic() <= 600 + LEEWAY
