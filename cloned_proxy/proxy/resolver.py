"""Names to addresses, once for each decision: cached, single-flight, bounded, with a deadline."""

from __future__ import annotations

from cloned_proxy.policy.model import Address, Host


class ResolveError(Exception):
    """The name did not resolve. `timed_out` tells 504 from 502."""

    def __init__(self, message: str, *, timed_out: bool = False) -> None:
        super().__init__(message)
        self.timed_out = timed_out


class Resolver:
    """Called only after a decision allowed the name: a denied name never reaches DNS."""

    async def resolve(self, host: Host) -> tuple[Address, ...]:
        """All addresses of the host, IPv6 and IPv4 in the order the system prefers; a literal is itself.

        Raises ResolveError. Cancelling one caller does not cancel the look-up that others wait for.
        """
        raise NotImplementedError

    def forget(self) -> None:
        """Empties the cache; called at each change of the policy."""
        raise NotImplementedError
