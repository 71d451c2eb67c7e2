"""What looks at the bytes of a relay on their way, and may end it."""

from __future__ import annotations

from typing import Final, Protocol


class TurnedAwayError(Exception):
    """The tunnel is to end. `cause` goes on record, `last` is what the client is told: b"" is a reset."""

    def __init__(self, cause: str, last: bytes = b"") -> None:
        super().__init__(cause)
        self.cause: Final = cause
        self.last: Final = last


class RelayGuard(Protocol):
    """For one relay, which has no pump while there is one."""

    @property
    def done(self) -> bool:
        """Whether nothing need be looked at any more: it is asked to `release`, and forgotten."""

    @property
    def holds(self) -> bool:
        """Whether something of the client's waits that must not pass as it is: a client that leaves now is cut."""

    def from_client(self, data: bytes) -> bytes:
        """What goes upstream now. Raises TurnedAwayError."""

    def from_server(self, data: bytes) -> bytes:
        """What goes to the client now. Raises TurnedAwayError."""

    def release(self) -> bytes:
        """What still waits for the upstream. Nothing is asked of the guard any more."""
