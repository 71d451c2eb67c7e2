"""The form of a JSON Web Token, read strictly and before anything is verified: RFC 7519 with the cautions of RFC 8725.

A library reads a token once more to verify it. What two readers could read differently is refused here: a member that
is there twice, numbers that are none, another spelling of base64.
"""

from __future__ import annotations

import base64
import binascii
import enum
import re
from dataclasses import dataclass
from typing import Any, Final

from cloned_proxy.policy.terms.strict_json import read_json

MAX_TOKEN: Final = 6144
"""Characters; a Kubernetes token has about 1,200."""
_COMPACT: Final = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)", re.ASCII)
_NOT_UNDERSTOOD: Final = ("crit", "b64", "zip", "enc", "cty")
"""Header members that change what the rest means: extensions, compression, encryption, a token inside of the token."""


class Fault(enum.StrEnum):
    """Why a token proves nothing; also the `reason` of a metric."""

    MALFORMED = "malformed"
    TYPE = "type"
    EXTENSION = "extension"
    ISSUER = "issuer"
    KEY = "key"
    ALGORITHM = "algorithm"
    SIGNATURE = "signature"
    AUDIENCE = "audience"
    TIME = "time"
    SUBJECT = "subject"


class TokenError(Exception):
    """A token that proves nothing."""

    def __init__(self, fault: Fault, explanation: str) -> None:
        """The explanation is for the operator's log and quotes nothing that could be a secret."""
        super().__init__(explanation)
        self.fault: Final = fault


@dataclass(frozen=True, slots=True)
class Unverified:
    """What a token says, which anybody may have written."""

    header: dict[str, Any]
    payload: dict[str, Any]

    @property
    def kind(self) -> str:
        """The `typ` of the header in lower case, "" for none (RFC 7515, section 4.1.9)."""
        found = self.header.get("typ", "")
        if not isinstance(found, str):
            raise TokenError(Fault.MALFORMED, "`typ` is no text")
        return found.lower().removeprefix("application/")

    @property
    def key_id(self) -> str:
        """The `kid` of the header: a name to look up, never a place to get a key from. Raises TokenError."""
        found = self.header.get("kid")
        if not isinstance(found, str) or not found:
            raise TokenError(Fault.KEY, "it names no key (`kid`)")
        return found


def read_token(text: str) -> Unverified:
    """Raises TokenError."""
    parts = _COMPACT.fullmatch(text) if len(text) <= MAX_TOKEN else None
    if parts is None:
        raise TokenError(Fault.MALFORMED, f"not three parts of base64url with at most {MAX_TOKEN} characters in all")
    header, payload = _object(parts[1], "header"), _object(parts[2], "payload")
    _bytes(parts[3], "signature")
    strange = next((name for name in _NOT_UNDERSTOOD if name in header), None)
    if strange is not None:
        raise TokenError(Fault.EXTENSION, f"its header has `{strange}`, which is not understood here")
    return Unverified(header, payload)


def _object(encoded: str, what: str) -> dict[str, Any]:
    try:
        found = read_json(_bytes(encoded, what))
    except ValueError as error:
        raise TokenError(Fault.MALFORMED, f"its {what} is no JSON object: {error}") from error
    if not isinstance(found, dict):
        raise TokenError(Fault.MALFORMED, f"its {what} is no JSON object")
    return found


def _bytes(encoded: str, what: str) -> bytes:
    try:
        raw = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
    except (binascii.Error, ValueError) as error:
        raise TokenError(Fault.MALFORMED, f"its {what} is no base64url") from error
    # The last character may have bits that nobody reads: one token has one spelling.
    if base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii") != encoded:
        raise TokenError(Fault.MALFORMED, f"its {what} is base64url in another spelling")
    return raw
