"""What a token has to be to name a tool, check by check: each one is seen to let its attack through once it is gone."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloned_proxy.fleet import jwks as key_sets
from cloned_proxy.fleet import token_form, tool_tokens
from cloned_proxy.fleet.issuer import Issuer
from cloned_proxy.fleet.jwks import PublicKey, fleet_keys
from cloned_proxy.fleet.token_form import Fault
from cloned_proxy.policy.caller import ANONYMOUS, IdentityRefusal, Principal
from cloned_proxy.policy.identity import Claims, credentials_expire, identify, mint_token
from cloned_proxy.policy.vocabulary import Reason
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
    pem,
    pod_claims,
    pod_header,
    raw_public,
    sealed,
    verifying,
)
from tests.proxy.support import HOST, allow, connect_head, hello, policy, until, upstream, world

GENUINE = tool_tokens.mint_tool_token(ED, Claims(TOOL, "run-1", NOW + 60), fleet=FLEET, now=NOW)
POD = sealed(pod_header(), pod_claims(), RSA)


async def test_what_the_fleet_signs_names_its_tool() -> None:
    found = (await verifying()).tokens.claims(GENUINE, NOW)
    assert found == Claims(TOOL, "run-1", NOW + 60 + tool_tokens.LEEWAY)
    assert jwt.get_unverified_header(GENUINE)["typ"] == "cloned-tool+jwt"


@pytest.mark.parametrize(
    ("header", "key"), [(pod_header(), RSA), (pod_header(alg="ES256", kid="k2"), EC), (fleet_header(typ="JWT", kid="k3"), ED)]
)
async def test_what_an_issuer_signs_names_the_tool_that_its_subject_is_mapped_to(header: dict[str, Any], key: Any) -> None:
    found = (await verifying()).tokens.claims(sealed(header, pod_claims(), key), NOW)
    assert found == Claims(TOOL, "search-7d9f", NOW + 3600 + tool_tokens.LEEWAY)


# Attacks. Each has the guard that stops it, and with that guard gone it gets through. ----------------------------------

type Patch = Callable[[pytest.MonkeyPatch, Verifying], None]


def _algorithm_of_the_token(patch: pytest.MonkeyPatch, _: Verifying) -> None:
    """What libraries of 2015 did (RFC 8725, section 2.1): they verified as the token said."""
    original = tool_tokens._check

    def check(token: str, key: PublicKey, *arguments: Any, **options: Any) -> Any:
        signing, _, signature = token.rpartition(".")
        match jwt.get_unverified_header(token)["alg"]:
            case "none":
                pass
            case "HS256":
                public = key.key.public_bytes_raw() if not hasattr(key.key, "key_size") else pem_of(key)
                made = base64.urlsafe_b64encode(hmac.digest(public, signing.encode(), "sha256")).rstrip(b"=").decode()
                assert hmac.compare_digest(made, signature)
            case _:
                return original(token, key, *arguments, **options)
        return json.loads(base64.urlsafe_b64decode(signing.split(".")[1] + "=="))

    patch.setattr(tool_tokens, "_check", check)


def pem_of(key: PublicKey) -> bytes:
    class Holder:
        def public_key(self) -> Any:
            return key.key

    return pem(Holder())


def _without(*claims: str) -> Patch:
    def patch_it(patch: pytest.MonkeyPatch, _: Verifying) -> None:
        original = jwt.decode

        def decode(*arguments: Any, options: Any, **more: Any) -> Any:
            return original(*arguments, options=options | dict.fromkeys(claims, False), **more)

        patch.setattr(jwt, "decode", decode)

    return patch_it


def _one_heap_of_keys(patch: pytest.MonkeyPatch, place: Verifying) -> None:
    heap = {name: key for issuer in place.issuers.values() for name, key in issuer.keys.items()}
    patch.setattr(Issuer, "key", lambda self, name: heap.get(name))


def _key_of_the_header(patch: pytest.MonkeyPatch, place: Verifying) -> None:
    patch.setattr(Issuer, "key", lambda self, name: next(iter(key_sets.read_jwks(jwks(jwk(REPLICA, name)), "").values())))


def _replicas_keys_count(patch: pytest.MonkeyPatch, place: Verifying) -> None:
    patch.setattr(place.tokens, "_keys", fleet_keys([raw_public(ED), raw_public(REPLICA)]))


def _set(module: Any, name: str, value: Any) -> Patch:
    return lambda patch, _: patch.setattr(module, name, value)


def _all(*patches: Patch) -> Patch:
    def patch_all(patch: pytest.MonkeyPatch, place: Verifying) -> None:
        for each in patches:
            each(patch, place)

    return patch_all


def _any_algorithm(patch: pytest.MonkeyPatch, place: Verifying) -> None:
    for issuer in place.issuers.values():
        wide = {name: replace(key, algorithms=("RS256", "PS256", "ES256", "EdDSA")) for name, key in issuer.keys.items()}
        patch.setattr(issuer, "keys", wide)


def _any_type(patch: pytest.MonkeyPatch, place: Verifying) -> None:
    patch.setattr(tool_tokens, "_ISSUER_TYPES", ("", "jwt", "at+jwt", "logout+jwt"))


def _twice(text: dict[str, Any], **more: Any) -> bytes:
    """A JSON object with members that are there twice; most readers take the last one."""
    return json.dumps(text).encode()[:-1] + b"," + json.dumps(more).encode()[1:]


AS_FLEET_NONE = sealed(fleet_header(alg="none"), fleet_claims(), None)
UNSIGNED = AS_FLEET_NONE.rpartition(".")[0] + ".AA"
ATTACKS: dict[str, tuple[str, Fault, Patch]] = {
    "alg none": (UNSIGNED, Fault.ALGORITHM, _algorithm_of_the_token),
    "alg none, of an issuer": (
        sealed(pod_header(alg="none"), pod_claims(), None) + "AA",
        Fault.ALGORITHM,
        _algorithm_of_the_token,
    ),
    "HS256 with the fleet's public key": (
        sealed(fleet_header(alg="HS256"), fleet_claims(), raw_public(ED)),
        Fault.ALGORITHM,
        _algorithm_of_the_token,
    ),
    "HS256 with an issuer's public key": (
        sealed(pod_header(alg="HS256"), pod_claims(), pem(RSA)),
        Fault.ALGORITHM,
        _algorithm_of_the_token,
    ),
    "aud of another fleet": (
        sealed(fleet_header(), fleet_claims(aud="staging"), ED),
        Fault.AUDIENCE,
        _without("verify_aud"),
    ),
    "aud of several fleets": (
        sealed(fleet_header(), fleet_claims(aud=["staging", FLEET]), ED),
        Fault.AUDIENCE,
        _without("strict_aud"),
    ),
    "aud of the cluster's own API": (
        sealed(pod_header(), pod_claims(aud=["https://kubernetes.default.svc"]), RSA),
        Fault.AUDIENCE,
        _without("verify_aud"),
    ),
    "kid of another issuer": (
        sealed(pod_header(kid="ci-1"), pod_claims(), RSA_OF_CI),
        Fault.KEY,
        _one_heap_of_keys,
    ),
    "iss of an issuer with fewer tools": (
        sealed(pod_header(kid="ci-1"), pod_claims(iss=CI), RSA_OF_CI),
        Fault.SUBJECT,
        lambda patch, place: patch.setattr(place.issuers[CI], "settings", place.issuers[CLUSTER].settings.model_copy(update={"issuer": CI})),
    ),
    "kid with a key of its own beside it": (
        sealed(pod_header(kid="mine", alg="EdDSA", jwk=jwk(REPLICA, "mine"), jku="https://evil.example/jwks"), pod_claims(), REPLICA),
        Fault.KEY,
        _key_of_the_header,
    ),
    "a replica's key": (sealed(fleet_header(REPLICA), fleet_claims(), REPLICA), Fault.KEY, _replicas_keys_count),
    "a replica's key under the fleet's kid": (
        sealed(fleet_header(ED), fleet_claims(), REPLICA),
        Fault.SIGNATURE,
        lambda patch, place: patch.setattr(
            place.tokens, "_keys", {next(iter(place.tokens._keys)): next(iter(fleet_keys([raw_public(REPLICA)]).values()))}
        ),
    ),
    "an algorithm of another family than the key's": (
        sealed(pod_header(alg="ES256"), pod_claims(), RSA),
        Fault.ALGORITHM,
        lambda patch, place: (_any_algorithm(patch, place), patch.setattr(jwt.algorithms.ECAlgorithm, "prepare_key", lambda self, key: key), patch.setattr(jwt.algorithms.ECAlgorithm, "verify", lambda *_: True))[0],
    ),
    "typ of something else that the key signs": (
        sealed(pod_header(typ="logout+jwt"), pod_claims(), RSA),
        Fault.TYPE,
        _any_type,
    ),
    "an issuer's token in the fleet's type": (
        sealed(pod_header(typ="cloned-tool+jwt"), pod_claims(), RSA),
        Fault.KEY,
        _set(tool_tokens, "TOKEN_TYPE", "never"),
    ) if False else (
        sealed(pod_header(typ="application/cloned-tool+jwt"), pod_claims(), RSA),
        Fault.KEY,
        _all(_set(tool_tokens, "TOKEN_TYPE", "none"), _set(tool_tokens, "_ISSUER_TYPES", ("cloned-tool+jwt",))),
    ),
    "crit": (
        sealed(pod_header(crit=["exp"]), pod_claims(), RSA),
        Fault.EXTENSION,
        _all(_set(token_form, "_NOT_UNDERSTOOD", ()), _set(jwt.PyJWS, "_validate_headers", lambda *_, **__: None)),
    ),
    "nested (cty)": (
        sealed(pod_header(cty="JWT"), pod_claims(), RSA),
        Fault.EXTENSION,
        _set(token_form, "_NOT_UNDERSTOOD", ()),
    ),
    "a claim twice": (
        sealed(pod_header(), _twice(pod_claims(sub="system:serviceaccount:evil:evil"), sub=SUBJECT), RSA),
        Fault.MALFORMED,
        _set(token_form, "_unique", dict),
    ),
    "a header member twice": (
        sealed(_twice(pod_header(alg="none"), alg="RS256"), pod_claims(), RSA),
        Fault.MALFORMED,
        _set(token_form, "_unique", dict),
    ),
    "oversize": (
        sealed(pod_header(), pod_claims(groups=["g" * 100] * 60), RSA),
        Fault.MALFORMED,
        _set(token_form, "MAX_TOKEN", 20_000),
    ),
    "not yet": (
        sealed(fleet_header(), fleet_claims(nbf=NOW + 31), ED),
        Fault.TIME,
        _set(tool_tokens, "LEEWAY", 60.0),
    ),
    "issued in the future": (
        sealed(pod_header(), pod_claims(iat=NOW + 31), RSA),
        Fault.TIME,
        _set(tool_tokens, "LEEWAY", 60.0),
    ),
    "a subject that nobody has mapped": (
        sealed(pod_header(), pod_claims(sub="system:serviceaccount:agents:other"), RSA),
        Fault.SUBJECT,
        lambda patch, place: patch.setattr(place.issuers[CLUSTER], "settings", place.issuers[CLUSTER].settings.model_copy(update={"map": {"system:serviceaccount:agents:other": TOOL}})),
    ),
    "an issuer that nobody has named": (
        sealed(pod_header(), pod_claims(iss="https://evil.example"), RSA),
        Fault.ISSUER,
        lambda patch, place: patch.setattr(place.tokens, "_issuers", {"https://evil.example": Issuer(place.issuers[CLUSTER].settings.model_copy(update={"issuer": "https://evil.example"}), place.sources[CLUSTER], on_change=lambda: None)}) or patch.setattr(Issuer, "key", lambda self, name: place.issuers[CLUSTER].keys.get(name)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
async def test_an_attack_that_only_its_guard_stops(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    token, fault, gone = ATTACKS[name]
    assert (await verifying()).fault_of(token) is fault
    broken = await verifying()
    gone(monkeypatch, broken)
    assert broken.fault_of(token) is None, "without its guard the attack is real"
