"""Tool identities: signed tokens, and who a request head proves to be (docs/identity.md)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol
from urllib.parse import quote, unquote

from cloned_proxy.policy.callers.caller import Caller, IdentityRefusal, Principal
from cloned_proxy.policy.callers.tool_id import tool_id
from cloned_proxy.policy.terms.vocabulary import Reason

MIN_KEY_BYTES: Final = 32
"""RFC 2104, section 3: a key shorter than the hash's output weakens it."""

_VERSION: Final = "v1"
_CONTEXT: Final = b"cloned-proxy tool token\x00"  # the same key signing anything else can never yield a token
_MAX_CREDENTIAL: Final = 8192
"""Characters of one field: a Kubernetes token in Basic has about 1,800, one with a list of groups some thousand."""
_RUN_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)
_CREDENTIAL_FIELDS: Final = ("proxy-authorization", "x-cloned-tool-token")


@dataclass(frozen=True, slots=True)
class Claims:
    tool: str
    run: str
    expires: float
    """Unix seconds."""


class TokenVerifier(Protocol):
    """Tells genuine tokens from others. Asked for each request, so an answer may wait for nothing."""

    @property
    def generation(self) -> int:
        """Another number as soon as it may say something else of a token than before, but for the time."""

    @property
    def at_change(self) -> set[Callable[[], None]]:
        """Functions that are called at once when `generation` changes."""

    def claims(self, token: str, now: float) -> Claims | None:
        """What a genuine token says, also when it has expired; None for anything else. Never raises."""


def valid_run_id(text: str) -> bool:
    """Whether the text can name a run in the log."""
    return _RUN_ID.fullmatch(text) is not None


def mint_token(key: bytes, claims: Claims) -> str:
    """A token for one tool and one run: URL-safe text without `:`, `@` or `/`, checked without a lookup.

    Raises ValueError for a short key, a tool or run id that no policy or log could hold, or an expiry that is no time.
    """
    tool_id(claims.tool)
    if not valid_run_id(claims.run):
        raise ValueError(f"{claims.run!r} is not a run id; use 1 to 128 letters, digits, '.', '_' or '-'")
    if not math.isfinite(claims.expires):
        raise ValueError("a token needs a finite expiry, in Unix seconds")
    payload = json.dumps([claims.tool, claims.run, claims.expires], separators=(",", ":")).encode()
    signed = f"{_VERSION}.{_base64url(payload)}"
    return f"{signed}.{_signature(key, signed)}"


class OwnTokens:
    """Verifies what `mint_token` made with the same key, that of this workspace. Raises ValueError for a short one."""

    generation: Final = 0

    def __init__(self, key: bytes) -> None:
        _check_length(key)
        self._key: Final = key
        self.at_change: Final[set[Callable[[], None]]] = set()

    def claims(self, token: str, now: float) -> Claims | None:  # noqa: ARG002  these tokens have no beginning
        """What a genuine token says, as `TokenVerifier.claims`."""
        return _verified(self._key, token)


def is_own(token: str) -> bool:
    """Whether it has the form of `mint_token`, genuine or not."""
    return token.startswith(f"{_VERSION}.")


def proxy_url(tool: str, token: str, authority: str) -> str:
    """`http://<tool, percent-encoded>:<token>@host:port`, as a client wants it in HTTP_PROXY."""
    return f"http://{quote(tool, safe='')}:{token}@{authority}"


def identify(
    headers: Sequence[tuple[str, str]],
    *,
    tokens: TokenVerifier,
    now: float,
    listener: Principal | None,
) -> Caller:
    """Who sent this head. `headers` are (lower-case name, value) pairs; all of them, duplicates included.

    `listener` is the principal that the listener itself carries: a tool's own (no header can change it; a credential
    for another tool is `identity_mismatch`), ANONYMOUS for the host listener, or None for a listener that names nobody
    and therefore refuses callers without a credential. A bad credential is refused even where none was needed.
    """
    credentials = credential_fields(headers)
    if not credentials:
        return listener if listener is not None else IdentityRefusal(Reason.IDENTITY_MISSING)
    proved = _proved(credentials, tokens, now)
    inside = listener is not None and listener.inside
    if isinstance(proved, IdentityRefusal):
        return replace(proved, inside=inside)
    if listener is None or listener.tool is None:
        return proved
    if listener.tool == proved.tool:
        return listener
    return IdentityRefusal(Reason.IDENTITY_MISMATCH, claimed=proved.tool, inside=inside)


def credential_fields(headers: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The fields of a head that `identify` looks at, in their order."""
    return [(name, value) for name, value in headers if name in _CREDENTIAL_FIELDS]


def credentials_expire(headers: Sequence[tuple[str, str]], *, tokens: TokenVerifier, now: float) -> float:
    """Unix seconds until which `identify` goes on to say the same of a head; inf for one without a credential."""
    claims = [_claims_of(name, value, tokens, now) for name, value in credential_fields(headers)]
    return min((each.expires if isinstance(each, Claims) else now for each in claims), default=math.inf)


def _proved(credentials: Sequence[tuple[str, str]], tokens: TokenVerifier, now: float) -> Principal | IdentityRefusal:
    """Whom the credential fields of one head prove, all of them the same."""
    if len({name for name, _ in credentials}) != len(credentials):
        return IdentityRefusal(Reason.IDENTITY_INVALID)
    proved: set[tuple[str, str]] = set()
    for name, value in credentials:
        claims = _claims_of(name, value, tokens, now)
        if isinstance(claims, IdentityRefusal):
            return claims
        proved.add((claims.tool, claims.run))
    if len(proved) != 1:
        return IdentityRefusal(Reason.IDENTITY_INVALID)
    return Principal(*proved.pop())


def _claims_of(name: str, value: str, tokens: TokenVerifier, now: float) -> Claims | IdentityRefusal:
    """What one credential field proves: genuine, then for the named user, then not expired."""
    parts = _token_of(name, value)
    claims = tokens.claims(parts[1], now) if parts is not None else None
    if parts is None or claims is None:
        return IdentityRefusal(Reason.IDENTITY_INVALID)
    user = parts[0]
    if user is not None and claims.tool not in (user, unquote(user)):
        return IdentityRefusal(Reason.IDENTITY_MISMATCH, claimed=claims.tool)
    if now >= claims.expires:
        return IdentityRefusal(Reason.IDENTITY_EXPIRED, claimed=claims.tool)
    return claims


def _token_of(name: str, value: str) -> tuple[str | None, str] | None:
    """(user name if the scheme has one, token) of a credential field; None when it is not one we read."""
    if len(value) > _MAX_CREDENTIAL:
        return None
    if name == "x-cloned-tool-token":
        return None, value
    scheme, _, rest = value.partition(" ")
    match scheme.lower():  # RFC 9110, section 11.1: the scheme is case-insensitive
        case "bearer":
            return None, rest.strip(" ")
        case "basic":
            return _user_and_password(rest.strip(" "))
        case _:
            return None


def _user_and_password(encoded: str) -> tuple[str, str] | None:
    """RFC 7617, section 2: base64 of `user:password`, UTF-8."""
    try:
        user, colon, password = base64.b64decode(encoded, validate=True).decode("utf-8").partition(":")
    except (binascii.Error, ValueError):
        return None
    return (user, password) if colon else None


def _verified(key: bytes, token: str) -> Claims | None:
    signed, _, signature = token.rpartition(".")
    # The signature is compared as text and covers the payload as text: no second spelling of a token is genuine.
    if not token.isascii() or not hmac.compare_digest(signature, _signature(key, signed)):
        return None
    version, _, payload = signed.partition(".")
    if version != _VERSION:
        return None
    tool, run, expires = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return Claims(tool, run, expires)


def _signature(key: bytes, signed: str) -> str:
    _check_length(key)
    return _base64url(hmac.new(key, _CONTEXT + signed.encode("ascii"), hashlib.sha256).digest())


def _check_length(key: bytes) -> None:
    if len(key) < MIN_KEY_BYTES:
        raise ValueError(
            f"the identity key has {len(key)} bytes and needs {MIN_KEY_BYTES}; remove it to have it made anew"
        )


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
