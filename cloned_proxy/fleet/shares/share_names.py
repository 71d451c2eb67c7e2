"""The keys and the channel of the store by which limits are shared. See `names`: the braces are a hash tag."""

from __future__ import annotations

from typing import Final


class ShareNames:
    """Names of the keys under which a fleet's store keeps shares of limits."""

    def __init__(self, fleet: str) -> None:
        prefix = f"cloned:{{{fleet}}}:shares"
        self.server: Final = f"{prefix}:server"
        """Hash. `run` is the server that hands out shares; `clock` the milliseconds by which shares end, `wall` what
        the server's own clock said then. `data` names what it knows, anew whenever something is odd; `before` are the
        names that it had, `heard` is the other one that a replica told. `settled` is from when on something new is
        given, `lost` is 1 where shares may be forgotten, and `of:TOOL` is until when the tool's hash must be there."""
        self.hungry: Final = f"{prefix}:hungry"
        """Channel: a tool of which some replica has too small a share, for those that have more than they need."""
        self._prefix = f"{prefix}:of:"

    def shares(self, tool: str) -> str:
        """Hash: replica to its share of this tool's limits (JSON).

        `:confirmed` is how much of each limit replicas had while the store settled, and of which data that was.
        """
        return self._prefix + tool
