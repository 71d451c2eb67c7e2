"""What can go wrong between this machine and its fleet."""

from __future__ import annotations

from enum import StrEnum

from cloned_proxy.store.files.errors import StoreError


class FleetError(StoreError):
    """Something of the fleet cannot be used. The message is one line: what, why, and the fix; it holds no secret."""


class StoreAwayError(FleetError):
    """The store did not do what it was asked for, in time or at all. Nothing is known of whether it was done."""


class StoreRefusedError(StoreAwayError):
    """The store answers, and does not do this one thing: what it has there is not what this program has put there."""


class Refused(StrEnum):
    """Why an envelope is not accepted: the label `reason` of `cloned_proxy_fleet_refused_total`."""

    FORMAT = "format"
    """No DSSE envelope, one of another payload type, or a payload that is no statement."""
    SIGNATURE = "signature"
    """None of the trusted keys has signed it."""
    FLEET = "fleet"
    """Signed for a fleet of another name."""
    HASH = "hash"
    """The policy is not the one whose hash the statement names."""
    ROLLBACK = "rollback"
    """Older than what was in force here before."""
    CONFLICT = "conflict"
    """Another content under the number of what was in force here before."""
    POLICY = "policy"
    """Signed, and no policy that may be in force: its text is not valid, or one of its `tests:` fails."""


class EnvelopeError(FleetError):
    """An envelope that is not accepted."""

    def __init__(self, reason: Refused, message: str) -> None:
        super().__init__(message)
        self.reason = reason
