"""Public keys that tokens are verified with, each with the algorithms that it may be used for, and no others.

What a key is for is said by whoever publishes it, never by the token that asks for it (RFC 8725, section 3.1): an RSA
key takes no HMAC, and a key for encryption verifies nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from jwt.exceptions import PyJWTError

from cloned_proxy.fleet.signed.keys import key_id
from cloned_proxy.policy.terms.strict_json import read_json
from cloned_proxy.store.settings.fleet_settings import public_key_bytes

_log = structlog.get_logger(__name__)

MAX_JWKS_BYTES: Final = 262_144
_MAX_KEYS: Final = 256
_MIN_RSA_BITS: Final = 2048
"""RFC 7518, section 3.3."""

_READERS: Final[Mapping[str, Callable[[dict[str, Any]], Any]]] = {
    "RSA": RSAAlgorithm.from_jwk,
    "EC": ECAlgorithm.from_jwk,
    "OKP": OKPAlgorithm.from_jwk,
}
_MEMBERS: Final = {"RSA": ("e", "kty", "n"), "EC": ("crv", "kty", "x", "y"), "OKP": ("crv", "kty", "x")}
"""RFC 7638, section 3.2."""
_ALGORITHMS: Final[Mapping[tuple[str, str], tuple[str, ...]]] = {
    ("RSA", ""): ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
}
"""By `kty` and `crv`. Symmetric keys (`oct`) are not here: whoever can verify with one can mint with it."""
_PRIVATE: Final = ("d", "p", "q", "k")


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key and what it may verify. Equal to another one that is the same key for the same."""

    key: Any = field(compare=False)
    """A public key of `cryptography`."""
    algorithms: tuple[str, ...]
    digest: str
    """An RFC 7638 thumbprint, or the id of a key of the fleet: no two keys have the same one."""


type Keys = Mapping[str, PublicKey]
"""By `kid`."""


def fleet_keys(trusted: Iterable[str]) -> Keys:
    """Those of `fleet.trust`, each by the id that envelopes name it by as well."""
    return {
        (name := key_id(public)): PublicKey(
            Ed25519PublicKey.from_public_bytes(public_key_bytes(public)), ("EdDSA",), name
        )
        for public in trusted
    }


def read_jwks(text: bytes, source: str) -> Keys:
    """The keys of a JWK set that can verify tokens; others are left out, and said. Raises ValueError for no set."""
    document = read_json(text)
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list) or len(entries) > _MAX_KEYS:
        raise ValueError(f"not a JWK set with at most {_MAX_KEYS} keys (RFC 7517, section 5)")
    names = Counter(str(entry.get("kid")) for entry in entries if isinstance(entry, dict))
    found: dict[str, PublicKey] = {}
    for entry in entries:
        try:
            name, key = _read_key(entry, names)
            found[name] = key
        except (ValueError, TypeError) as error:  # a member of another type than it can have
            kid = entry.get("kid") if isinstance(entry, dict) else None
            _log.warning("a key of an issuer is not used", source=source, kid=str(kid)[:80], reason=str(error))
    return found


def _read_key(entry: Any, names: Counter[str]) -> tuple[str, PublicKey]:
    """`kid` and key. Raises ValueError with why it is not for tokens."""
    if not isinstance(entry, dict):
        raise ValueError("it is no JSON object")  # noqa: TRY004  a fault of the document, not of the program
    name, kind, curve = entry.get("kid"), str(entry.get("kty")), str(entry.get("crv", ""))
    algorithms = _ALGORITHMS.get((kind, curve))
    if algorithms is None:
        raise ValueError("its type or curve is none of RSA, P-256, P-384, P-521, Ed25519")
    if not isinstance(name, str) or not name or names[name] > 1:
        raise ValueError("it has no `kid`, or that of another key")
    if any(part in entry for part in _PRIVATE):
        raise ValueError("it is a private key: it must be replaced, for whoever has read this can mint")
    if entry.get("use", "sig") != "sig" or "verify" not in entry.get("key_ops", ["verify"]):
        raise ValueError("it is not for signatures (`use`, `key_ops`)")
    if "alg" in entry:
        algorithms = tuple(each for each in algorithms if each == entry["alg"])
        if not algorithms:
            raise ValueError("its `alg` is none that its type can have")
    try:
        key = _READERS[kind](entry)
    except (PyJWTError, ValueError, TypeError, LookupError) as error:
        raise ValueError(f"it cannot be read: {error}") from error
    if isinstance(key, RSAPublicKey) and key.key_size < _MIN_RSA_BITS:
        raise ValueError(f"it has {key.key_size} bits; RSA needs {_MIN_RSA_BITS}")
    return name, PublicKey(key, algorithms, _thumbprint_of({each: entry[each] for each in _MEMBERS[kind]}))


def _thumbprint_of(members: Mapping[str, str]) -> str:
    """RFC 7638, section 3: SHA-256 over the required members, sorted, without spaces."""
    text = json.dumps(members, sort_keys=True, separators=(",", ":"))
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode("ascii")
