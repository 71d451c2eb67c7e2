"""Signed messages: the DSSE envelope (https://github.com/secure-systems-lab/dsse) around whatever bytes.

The signature covers the payload type and the payload together, and nothing of a payload is read before it is proven.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer._key import Key

from cloned_proxy.fleet.errors import EnvelopeError, Refused
from cloned_proxy.fleet.keys import SigningKey, verifying_key

MAX_BYTES: Final = 48 * 1024 * 1024
"""Of an envelope: a policy may have 16 MiB, JSON escapes some of them, and base64 adds a third."""
_MAX_SIGNATURES: Final = 16


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
            document = json.loads(raw)
            signatures = len(document["signatures"])
            envelope = Envelope.from_dict(document) if signatures <= _MAX_SIGNATURES else None
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


def seal(payload: bytes, payload_type: str, keys: Sequence[SigningKey]) -> bytes:
    """The envelope of a payload, signed by every one of `keys`. Raises ValueError without any."""
    if not keys:
        raise ValueError("an envelope needs a signature")
    envelope = Envelope(payload, payload_type, {})
    for key in keys:
        envelope.sign(key.signer)
    return json.dumps(envelope.to_dict(), separators=(",", ":")).encode()
