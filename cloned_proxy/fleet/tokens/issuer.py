"""The keys of one issuer as they are now: loaded in the background, kept while the issuer is away, dropped in the end.

A request never waits for them. A token that names an unknown key is refused and has the keys loaded anew, which no
number of such tokens can make happen often.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Final

import structlog

from cloned_proxy.fleet.tokens.jwks import Keys, PublicKey, read_jwks
from cloned_proxy.fleet.tokens.jwks_source import JwksSource, SourceError
from cloned_proxy.store.settings.issuer_settings import IssuerSettings

_log = structlog.get_logger(__name__)

MISS_SECONDS: Final = 10.0
"""Between two loads that unknown keys have asked for."""
_FIRST_RETRY: Final = 5.0
_KEPT_SECONDS: Final = 86_400.0
"""How long keys outlive the last answer of their issuer: what it has taken back meanwhile nobody can know here."""


class Issuer:
    """One for each entry of `fleet.issuers`, on the event loop."""

    def __init__(
        self,
        settings: IssuerSettings,
        source: JwksSource,
        *,
        on_change: Callable[[], None],
        on_load: Callable[[], None] = lambda: None,
        uptime: Callable[[], float] = time.monotonic,
    ) -> None:
        """`on_change` is told at each change of the keys, `on_load` whenever the source has answered.

        `uptime` gives seconds that no clock setting moves.
        """
        self.settings: Final = settings
        self.keys: Keys = {}
        self.loaded: float | None = None
        """On `uptime`: when the source last answered; None for never."""
        self._source: Final = source
        self.tried: Final = asyncio.Event()
        """Set once the source was asked for the first time."""
        self._on_change: Final = on_change
        self._on_load: Final = on_load
        self._uptime: Final = uptime
        self._missed: Final = asyncio.Event()
        self._text = b""
        """What the keys were read from."""
        self._asked: float | None = None
        self._failing = False

    def key(self, name: str) -> PublicKey | None:
        """The key of this `kid`; when there is none the keys are soon loaded anew, unless they just were."""
        found = self.keys.get(name)
        if found is None and (self._asked is None or self._uptime() - self._asked >= MISS_SECONDS):
            self._missed.set()
        return found

    async def follow(self) -> None:
        """Keeps the keys fresh until it is cancelled."""
        pause = 0.0
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._missed.wait(), pause)
            self._missed.clear()
            if await self.load():
                pause = self._source.seconds
            else:
                pause = min(max(_FIRST_RETRY, pause * 2), max(_FIRST_RETRY, self._source.seconds))

    async def load(self) -> bool:
        """Asks the source once. False when it has not answered with keys: what was known stays, for a day."""
        self._asked = self._uptime()
        try:
            return await self._load()
        finally:
            self.tried.set()

    async def _load(self) -> bool:
        try:
            text = await self._source.read()
            keys = read_jwks(text, self._source.name) if text != self._text else self.keys
        except (SourceError, ValueError) as error:
            self._failed(str(error))
            return False
        except Exception as error:  # noqa: BLE001  one fault must not end the loading for good
            self._failed(f"{type(error).__name__}: {error}")
            return False
        if self._failing:
            _log.info("the keys of an issuer can be loaded again", issuer=self.settings.issuer)
        self._failing = False
        self.loaded, self._text = self._uptime(), text
        self._on_load()
        self._take(keys)
        return True

    def _failed(self, reason: str) -> None:
        if not self._failing:
            _log.warning(
                "the keys of an issuer cannot be loaded; those that are known count for a day",
                issuer=self.settings.issuer, reason=reason,
            )  # fmt: skip
        self._failing = True
        if self.loaded is not None and self._uptime() - self.loaded > _KEPT_SECONDS:
            self._text = b""
            self._take({})

    def _take(self, keys: Keys) -> None:
        if keys != self.keys:
            self.keys = keys
            self._on_change()
