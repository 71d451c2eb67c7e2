"""Responses that say a secret back: found in its usual spellings, taken out of heads, never passed on in bodies. Pure.

A net for servers that repeat what they were sent (error pages, debug endpoints), not a wall: a server that is out to
tell the secret encodes it in a way that is not looked for.
"""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import Final

from cloned_proxy.policy.secrets.spelling import spellings

REDACTED: Final = b"[redacted]"
MIN_SEARCHED: Final = 6
"""Characters. A shorter secret turns up by chance, and calls that are in order would fail."""
ECHOED: Final = "refused:secret_echoed"
"""How the flow of such a response ends on record."""
HELD_BYTES: Final = 1_048_576
"""A body of a known length up to this is held until it has been read whole, so that its refusal can be told."""


REPEATED: Final = (
    "the response repeats a secret that the proxy injected, and is not passed on; "
    "`inject: {redact_echo: false}` in the rule would let it pass"
)
CODED: Final = (
    "the response is compressed although it was asked for otherwise, and cannot be searched for the injected secret; "
    "`inject: {redact_echo: false}` in the rule would let it pass"
)


class EchoError(Exception):
    """A body holds a secret, or is coded so that nobody can tell. The message says what to do and holds no secret."""


class EchoFilter:
    """Looks for the secrets of one rule."""

    __slots__ = ("_needles",)

    def __init__(self, secrets: Iterable[str]) -> None:
        found = {needle for secret in secrets if len(secret) >= MIN_SEARCHED for needle in _spellings(secret)}
        self._needles: Final = tuple(sorted(found))

    def __repr__(self) -> str:
        return f"EchoFilter({len(self._needles)} spellings)"

    def finds(self, data: bytes) -> bool:
        return any(needle in data for needle in self._needles)

    def redacted(self, value: bytes) -> bytes:
        """The value of a header; all of it replaced when a secret is in it, for what stands around may be a part."""
        return REDACTED if self.finds(value) else value

    def pending(self, data: bytes) -> int:
        """How many bytes at the end of `data` may be the beginning of a secret."""
        longest = 0
        for needle in self._needles:
            at = data.find(needle[:1], max(0, len(data) - len(needle) + 1))
            while at >= 0:
                if needle.startswith(data[at:]):
                    longest = max(longest, len(data) - at)
                    break
                at = data.find(needle[:1], at + 1)
        return longest


class EchoScanner:
    """One body, or the messages of one WebSocket, piece by piece: keeps back what may be the beginning of a secret."""

    __slots__ = ("_filter", "_passed", "_window")

    def __init__(self, looking: EchoFilter) -> None:
        self._filter = looking
        self._window = b""
        """The end of what has come that may be the beginning of a secret."""
        self._passed = 0
        """How many bytes of the window have gone on, because a message ended in it."""

    def feed(self, piece: bytes) -> bytes:
        """What may go on now. Raises EchoError before the last byte of a secret would."""
        data = self._window + piece
        if self._filter.finds(data):
            raise EchoError(REPEATED)
        end = len(data) - self._filter.pending(data)
        cleared = data[self._passed : end]
        self._window = data[end:]
        self._passed = max(0, self._passed - end)
        return cleared

    def rest(self) -> bytes:
        """What was kept back, at the end of the body or message. A secret that goes on in the next message is found."""
        held = self._window[self._passed :]
        self._passed = len(self._window)
        return held


def is_encoded(codings: Iterable[str]) -> bool:
    """Whether a body with these values of Content-Encoding cannot be looked into."""
    return any(coding.strip(" \t").lower() not in ("", "identity") for value in codings for coding in value.split(","))


def _spellings(secret: str) -> set[bytes]:
    raw = secret.encode("ascii")
    more = {html.escape(secret).encode("ascii"), raw.hex().encode("ascii"), raw.hex().upper().encode("ascii")}
    return spellings(secret) | more
