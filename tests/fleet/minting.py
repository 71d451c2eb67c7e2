"""Who makes tokens in the tests: the fleet, issuers beside it, and people who should not."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from dataclasses import dataclass, field
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from cloned_proxy.fleet.signed.keys import key_id
from cloned_proxy.fleet.tokens.issuer import Issuer
from cloned_proxy.fleet.tokens.jwks import fleet_keys
from cloned_proxy.fleet.tokens.token_form import Fault
from cloned_proxy.fleet.tokens.tool_tokens import TOKEN_TYPE, FleetTokens
from cloned_proxy.policy.callers.identity import OwnTokens
from cloned_proxy.store.settings.fleet_settings import public_key_text
from cloned_proxy.store.settings.issuer_settings import IssuerSettings

FLEET: Final = "prod"
NOW: Final = float(int(time.time()))
CLUSTER: Final = "https://kubernetes.default.svc.cluster.local"
CI: Final = "https://ci.example"
TOOL: Final = "search.tool@v1"
SUBJECT: Final = "system:serviceaccount:agents:search"
OWN_KEY: Final = b"o" * 32

ED: Final = Ed25519PrivateKey.generate()
"""The fleet's signing key."""
REPLICA: Final = Ed25519PrivateKey.generate()
RSA: Final = rsa.generate_private_key(65537, 2048)
RSA_OF_CI: Final = rsa.generate_private_key(65537, 2048)
EC: Final = ec.generate_private_key(ec.SECP256R1())


def raw_public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def trusted(key: Ed25519PrivateKey) -> str:
    """As a line of `trust:`."""
    return public_key_text(raw_public(key))


def public_bytes(key: Any) -> bytes:
    """A public key as files have it: what an attacker would take for the secret of an HMAC."""
    if isinstance(key, Ed25519PublicKey):
        return key.public_bytes_raw()
    found: bytes = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return found


def jwk(key: Any, kid: str, **more: Any) -> dict[str, Any]:
    match key:
        case rsa.RSAPrivateKey():
            text = RSAAlgorithm.to_jwk(key.public_key())
        case ec.EllipticCurvePrivateKey():
            text = ECAlgorithm.to_jwk(key.public_key())
        case _:
            text = OKPAlgorithm.to_jwk(key.public_key())
    found: dict[str, Any] = json.loads(text)
    return found | {"kid": kid} | more


def jwks(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": keys}).encode()


def b64(data: bytes | dict[str, Any]) -> str:
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def sealed(header: bytes | dict[str, Any], payload: bytes | dict[str, Any], key: Any) -> str:
    """A token with these very bytes: signed, or with an HMAC where the key is bytes, or with nothing for None."""
    signing = f"{b64(header)}.{b64(payload)}"
    if key is None:
        return f"{signing}.{b64(b'')}"
    if isinstance(key, bytes):
        return f"{signing}.{b64(hmac.new(key, signing.encode(), hashlib.sha256).digest())}"
    alg = "EdDSA" if isinstance(key, Ed25519PrivateKey) else "RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256"
    algorithm = jwt.get_algorithm_by_name(alg)
    return f"{signing}.{b64(algorithm.sign(signing.encode(), key))}"


def fleet_header(key: Ed25519PrivateKey = ED, **more: Any) -> dict[str, Any]:
    return {"alg": "EdDSA", "typ": TOKEN_TYPE, "kid": key_id(trusted(key))} | more


def fleet_claims(**more: Any) -> dict[str, Any]:
    times = {"iat": NOW - 10, "nbf": NOW - 10, "exp": NOW + 86_400}
    return {"sub": TOOL, "aud": FLEET, "jti": "run-1"} | times | more


def pod_header(**more: Any) -> dict[str, Any]:
    return {"alg": "RS256", "kid": "k1"} | more


def pod_claims(**more: Any) -> dict[str, Any]:
    """As a projected ServiceAccount token of Kubernetes has them."""
    place = {"namespace": "agents", "pod": {"name": "search-7d9f", "uid": "1"}, "serviceaccount": {"name": "search"}}
    times = {"iat": NOW - 10, "nbf": NOW - 10, "exp": NOW + 86_400}
    return {"iss": CLUSTER, "aud": ["cloned-proxy"], "sub": SUBJECT, "jti": "j", "kubernetes.io": place} | times | more


class HeldKeys:
    """A source whose document a test holds."""

    name = "held"
    seconds = 300.0

    def __init__(self, text: bytes) -> None:
        self.text: bytes | Exception = text
        self.reads = 0

    async def read(self) -> bytes:
        self.reads += 1
        if isinstance(self.text, Exception):
            raise self.text
        return self.text


@dataclass
class Verifying:
    tokens: FleetTokens
    issuers: dict[str, Issuer]
    sources: dict[str, HeldKeys]
    refused: list[Fault] = field(default_factory=list)
    uptime: float = 1000.0

    def fault_of(self, token: str, now: float = NOW) -> Fault | None:
        """Why a token is refused; None for one that is genuine."""
        self.refused.clear()
        return None if self.tokens.claims(token, now) is not None else self.refused[0]


def settings(issuer: str, **more: Any) -> IssuerSettings:
    return IssuerSettings(
        **{"issuer": issuer, "audience": "cloned-proxy", "jwks": "held", "map": {SUBJECT: TOOL}} | more
    )


async def verifying(*fleets: Ed25519PrivateKey) -> Verifying:
    """A replica of the fleet that also knows a cluster, and a CI system which may name another tool only."""
    refused: list[Fault] = []
    keys = fleet_keys([trusted(key) for key in fleets or (ED,)])
    tokens = FleetTokens(OwnTokens(OWN_KEY), fleet=FLEET, keys=keys, on_refused=refused.append)
    sources = {
        CLUSTER: HeldKeys(jwks(jwk(RSA, "k1"), jwk(EC, "k2"), jwk(ED, "k3"))),
        CI: HeldKeys(jwks(jwk(RSA_OF_CI, "ci-1"))),
    }
    made = Verifying(tokens, {}, sources, refused)
    chosen = {CLUSTER: settings(CLUSTER), CI: settings(CI, map={"ci": "ci.tool@v1"})}
    for name, source in sources.items():
        made.issuers[name] = Issuer(chosen[name], source, on_change=tokens.changed, uptime=lambda: made.uptime)
        assert await made.issuers[name].load()
    tokens.add(list(made.issuers.values()))
    return made
