"""The signed word of an operator that uses are counted from now on, though the store has lost what it knew."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Final

from cloned_proxy.fleet.signed.envelope import Trust, seal
from cloned_proxy.fleet.signed.errors import EnvelopeError, Refused
from cloned_proxy.fleet.signed.keys import SigningKey

PAYLOAD_TYPE: Final = "application/vnd.cloned-proxy.uses+json"


@dataclass(frozen=True, slots=True)
class LeaseResumption:
    fleet: str
    generation: str
    at: float
    """Unix seconds; an older one than a replica has followed is not followed again."""
    by: str
    reason: str


def seal_resumption(resumption: LeaseResumption, key: SigningKey) -> bytes:
    """The envelope that `read_resumption` reads."""
    return seal(json.dumps(asdict(resumption)).encode(), PAYLOAD_TYPE, [key])


def read_resumption(raw: bytes, trust: Trust, fleet: str) -> LeaseResumption:
    """Raises EnvelopeError for one that nobody trusted has signed, or that is for another fleet."""
    payload = trust.open(raw, PAYLOAD_TYPE).payload
    try:
        told = json.loads(payload)
        found = LeaseResumption(
            str(told["fleet"]), str(told["generation"]), float(told["at"]), str(told["by"]), str(told["reason"])
        )
    except (ValueError, KeyError, TypeError) as error:
        raise EnvelopeError(Refused.FORMAT, f"not a resumption ({type(error).__name__})") from None
    if found.fleet != fleet:
        raise EnvelopeError(Refused.FLEET, f"it is for the fleet {found.fleet}")
    return found
