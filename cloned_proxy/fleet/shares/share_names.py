"""The keys and the channel of the store by which limits are shared. See `names`: the braces are a hash tag."""

from __future__ import annotations

from typing import Final


class ShareNames:
    """Of one fleet."""

    def __init__(self, fleet: str) -> None:
        prefix = f"cloned:{{{fleet}}}:shares"
        self.server: Final = f"{prefix}:server"
        """Hash: `run` of the server that hands out shares, `settled` (its milliseconds) from when on. `data` names what
        it knows, anew where it knows nothing; `lost` (its milliseconds) is when a replica said that it knew other data,
        `again` is counted up when all have to say what they have, `of:TOOL` is until when the tool's hash lasts."""
        self.hungry: Final = f"{prefix}:hungry"
        """Channel: a tool of which some replica has too small a share, for those that have more than they need."""
        self._prefix = f"{prefix}:of:"

    def shares(self, tool: str) -> str:
        """Hash: replica to its share of this tool's limits (JSON).

        `:data`, `:settled` and `:lost` are as above, for this tool alone; `:gone` is what nobody has after a loss.
        """
        return self._prefix + tool
