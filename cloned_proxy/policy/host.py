"""Host names and IP literals, from what a caller or a policy file wrote to one canonical form."""

from __future__ import annotations

from cloned_proxy.policy.model import Host, HostPattern, Reason


class HostError(ValueError):
    """A host that is refused outright. `reason` is `malformed_request` or `ip_literal`; the message says what and why."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def parse_host(text: str) -> Host:
    """The canonical form of a host as it stands in a request, without brackets or port. Raises HostError."""
    raise NotImplementedError


def parse_pattern(text: str) -> HostPattern:
    """The canonical form of a pattern in a policy file. Raises ValueError with the fix in its message."""
    raise NotImplementedError
