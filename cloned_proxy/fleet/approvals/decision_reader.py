"""Reads decisions as the store offers them, which it does again and again: what nobody signed is checked once."""

from __future__ import annotations

import hashlib

from cloned_proxy.fleet.approvals.bounds import Remembered
from cloned_proxy.fleet.approvals.decision import FleetDecision, read_decision
from cloned_proxy.fleet.signed.envelope import Trust
from cloned_proxy.fleet.signed.errors import EnvelopeError


class DecisionReader:
    """For one process, which trusts the same keys until it ends."""

    def __init__(self, trust: Trust, fleet: str) -> None:
        self._trust = trust
        self._fleet = fleet
        self._unsigned = Remembered()

    def read(self, envelope: bytes, request: str) -> FleetDecision:
        """Raises EnvelopeError as `read_decision`, and ValueError for what was found to be none before."""
        digest = hashlib.sha256(b"%b\n%b" % (request.encode(), envelope)).hexdigest()
        if digest in self._unsigned:
            raise ValueError("it is no decision, as before")
        try:
            return read_decision(envelope, self._trust, self._fleet, request)
        except EnvelopeError:
            self._unsigned.add(digest)
            raise
