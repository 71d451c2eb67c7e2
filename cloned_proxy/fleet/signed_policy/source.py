"""Where envelopes come from: the store, a file, or a URL. None of them is believed."""

from __future__ import annotations

from typing import Protocol

from cloned_proxy.fleet.signed.errors import EnvelopeError
from cloned_proxy.fleet.signed.statement import Number


class Taker(Protocol):
    """The replica, as a source sees it."""

    @property
    def number(self) -> Number:
        """Number of the policy in force."""

    @property
    def sha256(self) -> str:
        """Hash of that policy's text; "" for none."""

    async def offer(self, raw: bytes) -> bool:
        """Looks at an envelope; whether what is in it is in force now."""

    def refuse(self, error: EnvelopeError) -> None:
        """There is something at the source that cannot even be looked at."""

    def heard(self) -> None:
        """The source has said that the policy in force is the newest."""


class Source(Protocol):
    @property
    def connected(self) -> bool:
        """Whether it answers."""

    @property
    def problem(self) -> str:
        """Why the newest policy cannot be had; "" while it can."""

    async def start(self, taker: Taker) -> None:
        """Begins to offer. Returns at once, whether or not anything is there."""

    async def read(self) -> None:
        """Asks now. Raises nothing: what is wrong is in `problem`."""

    async def close(self) -> None: ...
