"""Tokens that name a tool and that a proxy can verify but not make: JSON Web Tokens of the fleet or of an issuer.

What is checked, and where it is written: RFC 7519 for the claims, RFC 8725 for what goes wrong with them. A token of
the fleet has a type of its own, so that nothing else that the same key may ever sign can be taken for one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import jwt
import structlog
from jwt.exceptions import (
    InvalidAlgorithmError,
    InvalidAudienceError,
    InvalidIssuerError,
    InvalidSignatureError,
    PyJWTError,
)
from jwt.types import Options

from cloned_proxy.fleet.signed.keys import SigningKey
from cloned_proxy.fleet.tokens.issuer import Issuer
from cloned_proxy.fleet.tokens.jwks import Keys, PublicKey
from cloned_proxy.fleet.tokens.token_form import Fault, TokenError, Unverified, read_token
from cloned_proxy.policy.callers.identity import Claims, OwnTokens, is_own, valid_run_id
from cloned_proxy.policy.callers.tool_id import is_tool_id, tool_id

_log = structlog.get_logger(__name__)

TOKEN_TYPE: Final = "cloned-tool+jwt"  # noqa: S105  a media type
"""RFC 8725, section 3.11: explicit typing."""
_ISSUER_TYPES: Final = ("", "jwt", "at+jwt")
"""`typ` of ID tokens and of access tokens (RFC 9068); Kubernetes writes none."""
LEEWAY: Final = 30.0
"""Seconds by which clocks may differ."""
_LAST_SECOND: Final = 2**53
"""What every reader of JSON reads as the same number (RFC 8259, section 6)."""
_REMEMBERED: Final = 10_000
_FAULTS: Final = (
    (InvalidAlgorithmError, Fault.ALGORITHM, "its `alg` is none that its key may be used with"),
    (InvalidSignatureError, Fault.SIGNATURE, "its signature is not of the key that it names"),
    (InvalidAudienceError, Fault.AUDIENCE, "it is for somebody else (`aud`)"),
    (InvalidIssuerError, Fault.ISSUER, "it is of another issuer (`iss`)"),
    (PyJWTError, Fault.MALFORMED, "a claim is missing or of the wrong type"),
)


def mint_tool_token(key: SigningKey, claims: Claims, *, fleet: str, now: float) -> str:
    """A token for one tool and one run that every replica of the fleet accepts. Raises ValueError as `mint_token`."""
    tool_id(claims.tool)
    if not valid_run_id(claims.run):
        raise ValueError(f"{claims.run!r} is not a run id; use 1 to 128 letters, digits, '.', '_' or '-'")
    payload = {
        "sub": claims.tool,
        "aud": fleet,
        "iat": int(now),
        "nbf": int(now),
        "exp": math.ceil(claims.expires),
        "jti": claims.run,
    }
    return jwt.encode(payload, key.pem(), algorithm="EdDSA", headers={"typ": TOKEN_TYPE, "kid": key.id})


class FleetTokens:
    """A `TokenVerifier` for tokens of the fleet and of its issuers, and of this workspace as before."""

    def __init__(
        self,
        own: OwnTokens,
        *,
        fleet: str,
        keys: Keys,
        on_refused: Callable[[Fault], None] = lambda _: None,
    ) -> None:
        """`keys` are those that the fleet trusts; `on_refused` is told of each token that proves nothing."""
        self._own: Final = own
        self._fleet: Final = fleet
        self._keys: Final = keys
        self._on_refused: Final = on_refused
        self._issuers: dict[str, Issuer] = {}
        self._verified: dict[str, tuple[float, Claims]] = {}
        """Tokens that are genuine by the present keys, letter for letter, with the time before which they are not."""
        self._told: dict[Fault, float] = {}
        self.generation = 0
        self.at_change: Final[set[Callable[[], None]]] = set()
        """Told when a token may not be what it was."""

    def add(self, issuers: Sequence[Issuer]) -> None:
        """Accepts their tokens as well. No two of them have the same name."""
        self._issuers |= {issuer.settings.issuer: issuer for issuer in issuers}

    def changed(self) -> None:
        """Some key has changed: nothing that was verified counts any more."""
        self._verified.clear()
        self.generation += 1
        for tell in self.at_change:
            tell()

    def claims(self, token: str, now: float) -> Claims | None:
        """As of a `TokenVerifier`."""
        known = self._verified.get(token)
        if known is not None and known[0] <= now:
            return known[1]
        if is_own(token):
            return self._own.claims(token, now)
        try:
            begins, claims = self._verify(token, now)
        except TokenError as error:
            self._refused(error, now)
            return None
        while len(self._verified) >= _REMEMBERED:
            del self._verified[next(iter(self._verified))]
        self._verified[token] = begins, claims
        return claims

    def _verify(self, token: str, now: float) -> tuple[float, Claims]:
        """When it begins, and what it says. Raises TokenError."""
        unverified = read_token(token)
        if unverified.kind == TOKEN_TYPE:
            return self._verify_of_fleet(token, unverified, now)
        if unverified.kind not in _ISSUER_TYPES:
            raise TokenError(Fault.TYPE, "its `typ` is that of no token that names a tool")
        named = unverified.payload.get("iss")
        issuer = self._issuers.get(named) if isinstance(named, str) else None
        if issuer is None:
            raise TokenError(Fault.ISSUER, "its `iss` is none of `fleet.issuers`")
        return _verify_of_issuer(token, unverified, issuer, now)

    def _verify_of_fleet(self, token: str, unverified: Unverified, now: float) -> tuple[float, Claims]:
        key = self._keys.get(unverified.key_id)
        if key is None:
            raise TokenError(Fault.KEY, "its `kid` is no key that `fleet.trust` names")
        payload = _check(token, key, self._fleet, required=("sub", "aud", "iat", "nbf", "exp", "jti"), strict=True)
        tool, run = payload["sub"], payload["jti"]
        if not (is_tool_id(tool) and isinstance(run, str) and valid_run_id(run)):
            raise TokenError(Fault.SUBJECT, "its `sub` or `jti` is none that a tool or a run can have")
        begins, expires = _times(payload, now)
        return begins, Claims(tool, run, expires)

    def _refused(self, error: TokenError, now: float) -> None:
        self._on_refused(error.fault)
        if abs(now - self._told.get(error.fault, -math.inf)) >= 60:  # noqa: PLR2004  seconds: callers decide how often
            self._told[error.fault] = now
            _log.warning("a token is refused", reason=error.fault, explanation=str(error))


def _verify_of_issuer(token: str, unverified: Unverified, issuer: Issuer, now: float) -> tuple[float, Claims]:
    settings = issuer.settings
    key = issuer.key(unverified.key_id)
    if key is None:
        raise TokenError(Fault.KEY, f"its `kid` is no key that {settings.issuer} has published, as far as is known")
    payload = _check(
        token, key, settings.audience, issuer=settings.issuer, required=("iss", "sub", "aud", "exp"), strict=False
    )
    subject = payload["sub"]
    tool = settings.map.get(subject) if isinstance(subject, str) else None
    if tool is None:
        raise TokenError(Fault.SUBJECT, f"{str(subject)[:200]!r} is not in the `map` of {settings.issuer}")
    begins, expires = _times(payload, now)
    return begins, Claims(tool, _run_of(payload, token), expires)


def _check(
    token: str, key: PublicKey, audience: str, *, issuer: str | None = None, required: Sequence[str], strict: bool
) -> dict[str, Any]:
    """The claims of a token with a good signature, for this audience. Times are looked at by our own clock."""
    options: Options = {
        "require": list(required),
        "verify_exp": False,
        "verify_nbf": False,
        "verify_iat": False,
        "strict_aud": strict,
    }
    try:
        return jwt.decode(
            token,
            key.key,
            algorithms=list(key.algorithms),
            audience=audience,
            issuer=issuer,
            options=options,
        )
    except PyJWTError as error:
        fault, said = next((fault, said) for kind, fault, said in _FAULTS if isinstance(error, kind))
        raise TokenError(fault, said) from error


def _times(payload: dict[str, Any], now: float) -> tuple[float, float]:
    """From when until when it counts, in Unix seconds. A token that is over is genuine all the same."""
    begins = max(_time(payload, "nbf", 0.0), _time(payload, "iat", 0.0)) - LEEWAY
    if begins > now:
        raise TokenError(Fault.TIME, f"it begins in {begins + LEEWAY - now:.0f} s by this machine's clock")
    return begins, _time(payload, "exp", 0.0) + LEEWAY


def _time(payload: dict[str, Any], name: str, absent: float) -> float:
    value = payload.get(name, absent)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LAST_SECOND:
        raise TokenError(Fault.TIME, f"its `{name}` is no time")
    return float(value)


def _run_of(payload: dict[str, Any], token: str) -> str:
    """What the log calls the caller's run: its pod where Kubernetes says it, else `jti`, else a digest of the token."""
    inside = payload.get("kubernetes.io")
    pod = inside.get("pod") if isinstance(inside, dict) else None
    for name in (pod.get("name") if isinstance(pod, dict) else None, payload.get("jti")):
        if isinstance(name, str) and valid_run_id(name):
            return name
    return f"token-{hashlib.sha256(token.encode()).hexdigest()[:16]}"
