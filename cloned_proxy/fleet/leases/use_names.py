"""The keys of the store under which uses of exact leases are counted. See `names`: the braces are a hash tag."""

from __future__ import annotations

from typing import Final


class UseNames:
    """Names of the keys under which a fleet's store counts uses of leases."""

    def __init__(self, fleet: str) -> None:
        prefix = f"cloned:{{{fleet}}}:uses"
        self.ledger: Final = f"{prefix}:ledger"
        """Hash: `generation` of the count, `run` (server and replication history that have it whole), `settled` (its
        milliseconds), `steps` (each use and each join), `resume` (the signed word of an operator), `disputed` (who
        follows another count) and `followed` (its signed word), `behind` (who knows better), `total:RULE` (its uses by
        all replicas) and `asked:RULE` (when it was last spoken of; milliseconds)."""
        self.members: Final = f"{prefix}:members"
        """Set: the replicas that have told what they took by their own disks, in this count."""
        self._prefix = f"{prefix}:of:"

    def uses(self, rule: str) -> str:
        """Hash: replica to the uses that it took of this rule."""
        return self._prefix + rule
