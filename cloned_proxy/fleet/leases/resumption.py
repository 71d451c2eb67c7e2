"""The signed word of an operator that uses are counted from now on, though the store has lost what it knew."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Final

from cloned_proxy.fleet.approvals.decision import SKEW_SECONDS
from cloned_proxy.fleet.signed.envelope import Trust, seal
from cloned_proxy.fleet.signed.errors import EnvelopeError, Refused
from cloned_proxy.fleet.signed.keys import SigningKey

PAYLOAD_TYPE: Final = "application/vnd.cloned-proxy.uses+json"


@dataclass(frozen=True, slots=True)
class LeaseResumption:
    fleet: str
    generation: str
    at: float
    """Unix seconds by the store's clock, and later than every one before: a replica follows no older one again."""
    by: str
    reason: str

    def is_possible(self, now: float) -> bool:
        """Whether it can have been signed by now (Unix seconds): clocks may differ by two hours, as for decisions."""
        return self.at <= now + SKEW_SECONDS


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
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise EnvelopeError(Refused.FORMAT, f"not a resumption ({type(error).__name__})") from None
    if not math.isfinite(found.at):
        raise EnvelopeError(Refused.FORMAT, "not a resumption: it has no time")
    if found.fleet != fleet:
        raise EnvelopeError(Refused.FLEET, f"it is for the fleet {found.fleet}")
    return found
