"""How each check of a token is taken out, at the place where it stands: then the attack that it stops gets through."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jwt
import pytest
from jwt.algorithms import ECAlgorithm

from cloned_proxy.fleet.tokens import token_form, tool_tokens
from cloned_proxy.fleet.tokens.issuer import Issuer
from cloned_proxy.fleet.tokens.jwks import PublicKey, fleet_keys, read_jwks
from cloned_proxy.policy.terms import strict_json
from tests.fleet.minting import CI, CLUSTER, ED, REPLICA, TOOL, Verifying, jwk, jwks, public_bytes, trusted

type Gone = Callable[[pytest.MonkeyPatch, Verifying], None]


def algorithm_of_the_token(patch: pytest.MonkeyPatch, _: Verifying) -> None:
    """What libraries of 2015 did (RFC 8725, section 2.1): they verified as the token said."""
    original = tool_tokens._check

    def check(token: str, key: PublicKey, *arguments: Any, **more: Any) -> Any:
        signing, _, signature = token.rpartition(".")
        match jwt.get_unverified_header(token)["alg"]:
            case "none":
                pass
            case "HS256":
                made = hmac.digest(public_bytes(key.key), signing.encode(), "sha256")
                assert base64.urlsafe_b64encode(made).rstrip(b"=").decode() == signature
            case _:
                return original(token, key, *arguments, **more)
        return json.loads(base64.urlsafe_b64decode(signing.split(".")[1] + "=="))

    patch.setattr(tool_tokens, "_check", check)


def any_algorithm(patch: pytest.MonkeyPatch, place: Verifying) -> None:
    for issuer in place.issuers.values():
        wide = {name: replace(key, algorithms=("RS256", "ES256")) for name, key in issuer.keys.items()}
        patch.setattr(issuer, "keys", wide)
    patch.setattr(ECAlgorithm, "prepare_key", lambda _, key: key)
    patch.setattr(ECAlgorithm, "verify", lambda *_: True)


def without(claim: str) -> Gone:
    def gone(patch: pytest.MonkeyPatch, _: Verifying) -> None:
        original = jwt.decode

        def decode(token: str, key: Any, *, options: Any, **more: Any) -> Any:
            return original(token, key, options=options | {claim: False}, **more)

        patch.setattr(jwt, "decode", decode)

    return gone


def one_heap_of_keys(patch: pytest.MonkeyPatch, place: Verifying) -> None:
    heap = {name: key for issuer in place.issuers.values() for name, key in issuer.keys.items()}
    patch.setattr(Issuer, "key", lambda _, name: heap.get(name))


def key_of_the_header(patch: pytest.MonkeyPatch, _: Verifying) -> None:
    patch.setattr(Issuer, "key", lambda _, name: read_jwks(jwks(jwk(REPLICA, name)), "header")[name])


def replicas_count(patch: pytest.MonkeyPatch, place: Verifying) -> None:
    patch.setattr(place.tokens, "_keys", fleet_keys([trusted(ED), trusted(REPLICA)]))


def any_key_of_that_name(patch: pytest.MonkeyPatch, place: Verifying) -> None:
    other = next(iter(fleet_keys([trusted(REPLICA)]).values()))
    patch.setattr(place.tokens, "_keys", dict.fromkeys(fleet_keys([trusted(ED)]), other))


def one_map_for_all(patch: pytest.MonkeyPatch, place: Verifying) -> None:
    patch.setattr(place.issuers[CI], "settings", changed(place, issuer=CI))


def everybody_mapped(patch: pytest.MonkeyPatch, place: Verifying) -> None:
    settings = changed(place, map={"system:serviceaccount:agents:other": TOOL})
    patch.setattr(place.issuers[CLUSTER], "settings", settings)


def any_issuer(patch: pytest.MonkeyPatch, place: Verifying) -> None:
    known = place.issuers[CLUSTER]
    patch.setattr(known, "settings", changed(place, issuer="https://evil.example"))
    patch.setattr(place.tokens, "_issuers", {"https://evil.example": known})


def changed(place: Verifying, **more: Any) -> Any:
    return place.issuers[CLUSTER].settings.model_copy(update=more)


def any_type(patch: pytest.MonkeyPatch, _: Verifying) -> None:
    patch.setattr(tool_tokens, "_ISSUER_TYPES", ("", "jwt", "logout+jwt", tool_tokens.TOKEN_TYPE))
    patch.setattr(tool_tokens, "TOKEN_TYPE", "nothing")


def any_extension(patch: pytest.MonkeyPatch, _: Verifying) -> None:
    patch.setattr(token_form, "_NOT_UNDERSTOOD", ())
    patch.setattr(jwt.PyJWS, "_validate_headers", lambda *_, **__: None)


def the_last_member_counts(patch: pytest.MonkeyPatch, _: Verifying) -> None:
    patch.setattr(strict_json, "each_key_once", dict)


def any_size(patch: pytest.MonkeyPatch, _: Verifying) -> None:
    patch.setattr(token_form, "MAX_TOKEN", 20_000)


def any_time(patch: pytest.MonkeyPatch, _: Verifying) -> None:
    patch.setattr(tool_tokens, "LEEWAY", 60.0)
