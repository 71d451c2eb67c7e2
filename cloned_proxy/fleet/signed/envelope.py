"""Signed messages: the DSSE envelope (https://github.com/secure-systems-lab/dsse) around whatever bytes.

The signature covers the payload type and the payload together, and nothing of a payload is read before it is proven.
"""

from __future__ import annotations

import json
from binascii import a2b_base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer._key import Key

from cloned_proxy.fleet.signed.errors import EnvelopeError, Refused
from cloned_proxy.fleet.signed.keys import SigningKey, verifying_key

MAX_BYTES: Final = 48 * 1024 * 1024
"""Size of an envelope: a policy may have 16 MiB, JSON escapes some of them, and base64 adds a third."""
_MAX_SIGNATURES: Final = 16
_SMALL: Final = 64 * 1024
"""Size of an envelope without its payload: what is read as JSON before anything is proven, since reading JSON stops
all the other work of the process."""
_MOST_STRINGS: Final = 1000
_PIECE: Final = 256 * 1024
_MARK: Final = "payload"


@dataclass(frozen=True, slots=True)
class Opened:
    """What an envelope held, proven."""

    payload: bytes
    signer: str
    """Id of a trusted key that has signed it."""


class Trust:
    """The public keys, one of which must have signed."""

    def __init__(self, keys: Iterable[str]) -> None:
        """`keys` are lines of `trust:`. Raises ValueError for one that is none."""
        self._keys: Final[list[Key]] = [verifying_key(key) for key in keys]
        self.ids: Final = tuple(sorted(key.keyid for key in self._keys))

    def open(self, raw: bytes, payload_type: str) -> Opened:
        """The payload of an envelope of this type that a trusted key has signed. Raises EnvelopeError."""
        if len(raw) > MAX_BYTES:
            raise EnvelopeError(Refused.FORMAT, f"the envelope has {len(raw)} bytes, more than {MAX_BYTES}")
        try:
            document, payload = _parts(raw)
            signatures = len(document["signatures"])
            envelope = Envelope.from_dict(document) if signatures <= _MAX_SIGNATURES else None
            if envelope is not None and payload is not None:
                envelope.payload = payload
            found = envelope.payload_type if envelope is not None else ""
        except Exception as error:  # noqa: BLE001  the library raises what the text leads it to; all of it refuses
            raise EnvelopeError(Refused.FORMAT, f"not a DSSE envelope ({type(error).__name__})") from None
        if envelope is None:
            raise EnvelopeError(Refused.FORMAT, f"{signatures} signatures, more than {_MAX_SIGNATURES}")
        if found != payload_type:
            raise EnvelopeError(Refused.FORMAT, f"the payload type is not {payload_type}")
        return Opened(envelope.payload, self._signer_of(envelope))

    def _signer_of(self, envelope: Envelope) -> str:
        try:
            accepted = envelope.verify(self._keys, 1)
        except VerificationError:
            accepted = {}
        except Exception as error:  # noqa: BLE001  as above
            raise EnvelopeError(Refused.SIGNATURE, f"the signature cannot be read ({type(error).__name__})") from None
        if not accepted:
            raise EnvelopeError(
                Refused.SIGNATURE,
                "no key of `trust:` has signed it; add the publisher's, or publish with a trusted one",
            )
        return min(accepted)


def _parts(raw: bytes) -> tuple[Any, bytes | None]:
    """The JSON of an envelope and, of a large one, the payload by itself: it is decoded piece by piece beside traffic.

    Raises ValueError.
    """
    if len(raw) <= _SMALL:
        return json.loads(raw), None
    start, end = max(pairwise(_quotes(raw)), key=lambda pair: pair[1] - pair[0])
    rest = raw[: start + 1] + _MARK.encode() + raw[end:]
    if len(rest) > _SMALL:
        raise ValueError("more beside its payload than an envelope has")
    document = json.loads(rest)
    if document["payload"] != _MARK:
        raise ValueError("something else is longer than the payload")
    pieces = (raw[at : min(at + _PIECE, end)] for at in range(start + 1, end, _PIECE))
    payload = b"".join(a2b_base64(piece.translate(_STANDARD), strict_mode=True) for piece in pieces)
    return document | {"payload": ""}, payload


_STANDARD: Final = bytes.maketrans(b"-_", b"+/")
"""DSSE allows both alphabets of base64."""


def _quotes(raw: bytes) -> list[int]:
    found: list[int] = []
    at = raw.find(b'"')
    while at >= 0:
        found.append(at)
        if len(found) > 2 * _MOST_STRINGS:
            raise ValueError("more strings than an envelope has")
        at = raw.find(b'"', at + 1)
    return found


def seal(payload: bytes, payload_type: str, keys: Sequence[SigningKey]) -> bytes:
    """The envelope of a payload, signed by every one of `keys`. Raises ValueError without any."""
    if not keys:
        raise ValueError("an envelope needs a signature")
    envelope = Envelope(payload, payload_type, {})
    for key in keys:
        envelope.sign(key.signer)
    return json.dumps(envelope.to_dict(), separators=(",", ":")).encode()
