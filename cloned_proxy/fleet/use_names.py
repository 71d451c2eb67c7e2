"""The keys of the store under which uses of exact leases are counted. See `names`: the braces are a hash tag."""

from __future__ import annotations

from typing import Final


class UseNames:
    """Of one fleet."""

    def __init__(self, fleet: str) -> None:
        prefix = f"cloned:{{{fleet}}}:uses"
        self.ledger: Final = f"{prefix}:ledger"
        """Hash: `generation` of the count, `run` of the server that has it whole, `settled` (its milliseconds),
        `resume` (the signed word of an operator), `disputed` (by whom)."""
        self.members: Final = f"{prefix}:members"
        """Set: the replicas that may have taken a use."""
        self.waiting: Final = f"{prefix}:waiting"
        """Set: those that have not told what they took since the store was restarted."""
        self._prefix = f"{prefix}:of:"

    def uses(self, rule: str) -> str:
        """Hash: replica to the uses that it took of this rule."""
        return self._prefix + rule
