"""Every key and channel of the store, in one place. Whatever is kept under them is unproven until a signature says so.

The braces are a hash tag: in a cluster all keys of one fleet live on one node, so that a script may touch several.
"""

from __future__ import annotations

from typing import Final


class Names:
    """The keys of one fleet."""

    def __init__(self, fleet: str) -> None:
        prefix = f"cloned:{{{fleet}}}:"
        self.policy: Final = f"{prefix}policy"
        """Hash: `epoch`, `version`, `envelope` of the newest policy."""
        self.policy_history: Final = f"{prefix}policy:history"
        """Hash: EPOCH.VERSION to envelope, what `fleet rollback` can go back to."""
        self.policy_order: Final = f"{prefix}policy:order"
        """List of the EPOCH.VERSION in the history, the newest first: what bounds it."""
        self.policy_news: Final = f"{prefix}policy:news"
        """Channel: EPOCH.VERSION of each policy that is published. A hint to read, and nothing more."""
        self.replicas: Final = f"{prefix}replicas"
        """Hash: replica and worker to what it last said of itself (JSON)."""
        self.replicas_seen: Final = f"{prefix}replicas:seen"
        """Sorted set: replica and worker by the store's time at which that was."""
        self.replica_news: Final = f"{prefix}replicas:news"
        """Channel: the same JSON, at the moment when it is said."""
        self.audit_logs: Final = f"{prefix}audit:logs"
        """Hash: id of each log that is shipped to whose it is (JSON)."""
        self._audit: Final = f"{prefix}audit:"

    def audit(self, log: str) -> str:
        """Stream: the newest entries of a log, each under its own number, so that none can be there twice."""
        return f"{self._audit}{log}"

    def audit_receipts(self, log: str) -> str:
        """Stream: the receipts for it, in the same way."""
        return f"{self._audit}{log}:receipts"
