"""Notices that the store may have lost the shares of limits, while it runs or over a restart."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any, Final

import structlog

from cloned_proxy.fleet.link.link import Link
from cloned_proxy.fleet.shares.share_names import ShareNames
from cloned_proxy.fleet.shares.share_script import LOOK
from cloned_proxy.fleet.signed.errors import StoreAwayError

_log = structlog.get_logger(__name__)

_LOOK_SECONDS: Final = 1.0
"""Between two looks: well within the time in which a store that has lost something gives nothing new."""
_SAY_SECONDS: Final = 60.0
_LONGEST: Final = 40


class ShareLoss:
    """What one replica knows of the store's data."""

    def __init__(
        self, link: Link, names: ShareNames, *, on_loss: Callable[[], None], clock: Callable[[], float]
    ) -> None:
        """`on_loss`: each share must be said to the store anew."""
        self._link = link
        self._names = names
        self._on_loss = on_loss
        self._clock = clock
        self._data = b""
        """The store's name for what it knows; b"" before it was asked."""
        self._looked = self._said = float("-inf")

    def told(self) -> tuple[bytes, str]:
        """What the share script is told: the data that is known here, and a name for new data."""
        return self._data, secrets.token_hex(8)

    def learn(self, data: Any) -> None:
        """Takes in what the share script has answered. Raises StoreAwayError for what it never does."""
        if not isinstance(data, bytes) or not 0 < len(data) <= _LONGEST:
            raise StoreAwayError("the store answers what no share script does")
        self._compare(data)
        self._data = data

    async def look(self) -> None:
        """Asks once a second, where a share was ever asked for. A store that is away is asked again."""
        if not self._data or not self._link.connected or self._clock() < self._looked + _LOOK_SECONDS:
            return
        self._looked = self._clock()
        try:
            found = await self._link.run(lambda redis: redis.eval(LOOK, 1, self._names.server))
        except StoreAwayError:
            return  # the link tells the log
        # The data that is known stays so until the store is told of it: by that it learns that it has lost something.
        self._compare(found)

    def _compare(self, data: Any) -> None:
        if not self._data or data == self._data:
            return
        if self._clock() >= self._said + _SAY_SECONDS:
            self._said = self._clock()
            _log.warning("the store of the fleet may have lost shares of limits; each replica says what it has")
        self._on_loss()
