"""The keys and the channel of the store by which limits are shared. See `names`: the braces are a hash tag."""

from __future__ import annotations

from typing import Final


class ShareNames:
    """Of one fleet."""

    def __init__(self, fleet: str) -> None:
        prefix = f"cloned:{{{fleet}}}:shares"
        self.server: Final = f"{prefix}:server"
        """Hash: `run` of the server that hands out shares, `settled` (its milliseconds) from when on."""
        self.hungry: Final = f"{prefix}:hungry"
        """Channel: a tool of which some replica has too small a share, for those that have more than they need."""
        self._prefix = f"{prefix}:of:"

    def shares(self, tool: str) -> str:
        """Hash: replica to its share of this tool's limits (JSON)."""
        return self._prefix + tool
