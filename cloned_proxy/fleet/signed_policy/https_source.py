"""The policy from a URL that holds an envelope, polled with its ETag (RFC 9110, section 13)."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final

import httpx
import structlog

from cloned_proxy.fleet.link.client import trusted_pem
from cloned_proxy.fleet.signed.envelope import MAX_BYTES
from cloned_proxy.fleet.signed_policy.source import Taker
from cloned_proxy.store.files.errors import StoreError

_log = structlog.get_logger(__name__)

_SECONDS: Final = 10.0
"""Bound for each step of a request."""
_WHOLE_SECONDS: Final = 60.0
"""Bound for a whole request: a server that sends a byte now and then does not hold up the next one."""
_LONGEST_DELAY: Final = 300.0
_LONGEST_TAG: Final = 1024


class HttpsSource:
    """Asks in the rhythm of `poll`, ever less often while it fails.

    No variable of the environment leads it to a proxy: that could be this one.
    """

    def __init__(
        self, url: str, *, poll: float, ca_files: tuple[Path, ...], ahead: Callable[[], httpx.Proxy | None]
    ) -> None:
        """`ahead` gives the proxy in front, where one is set. Raises StoreError for a CA file that is none."""
        context = ssl.create_default_context()
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        for path in ca_files:
            context.load_verify_locations(cadata=trusted_pem(path))
        self._context = context
        self._url = url
        self._poll = poll
        self._ahead = ahead
        self._etag = ""
        self._failures = 0
        self._asking = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._taker: Taker | None = None
        self.connected = False
        self.problem = ""

    async def start(self, taker: Taker) -> None:
        self._taker = taker
        self._task = asyncio.create_task(self._follow())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def read(self) -> None:
        taker = self._taker
        if taker is None:
            return
        async with self._asking:
            try:
                async with asyncio.timeout(_WHOLE_SECONDS):
                    status, raw, etag = await self._get()
            except (httpx.HTTPError, OSError, TimeoutError, StoreError) as error:
                self._failed(str(error) or type(error).__name__)
                return
            if status == httpx.codes.NOT_MODIFIED and self._etag:
                self._answered()
                taker.heard()
            elif status == httpx.codes.OK:
                self._answered()
                # Only what was accepted is not asked for again.
                self._etag = etag if await taker.offer(raw) else ""
                self.problem = "" if self._etag == etag else f"{self._url}: not accepted; see the log"
            else:
                self._failed(f"it answers {status}")

    async def _get(self) -> tuple[int, bytes, str]:
        # No compression is asked for: a small answer could become any number of bytes before they are counted.
        fields = {"Cache-Control": "no-cache", "Accept-Encoding": "identity"}
        if self._etag:
            fields["If-None-Match"] = self._etag
        async with (
            httpx.AsyncClient(
                trust_env=False, verify=self._context, proxy=self._ahead(), timeout=_SECONDS, follow_redirects=False
            ) as client,
            client.stream("GET", self._url, headers=fields) as answer,
        ):
            if answer.status_code != httpx.codes.OK:
                return answer.status_code, b"", ""
            raw = bytearray()
            async for piece in answer.aiter_raw():
                raw += piece
                if len(raw) > MAX_BYTES:
                    raise StoreError(f"the answer has more than {MAX_BYTES} bytes")
            return answer.status_code, bytes(raw), answer.headers.get("ETag", "")[:_LONGEST_TAG]

    def _answered(self) -> None:
        self.connected, self.problem, self._failures = True, "", 0

    def _failed(self, reason: str) -> None:
        if not self._failures:
            _log.warning("the fleet's policy cannot be fetched; what is known here stays in force", reason=reason)
        self._failures += 1
        self.connected, self.problem = False, f"{self._url}: {reason}"

    async def _follow(self) -> None:
        while True:
            try:
                await self.read()
            except Exception:  # noqa: BLE001  what one answer broke must not end the following
                _log.exception("the fleet's policy could not be read; asked again")
                self._failures += 1
            delay = min(self._poll * 2 ** min(self._failures, 10), max(self._poll, _LONGEST_DELAY))
            await asyncio.sleep(delay * random.uniform(0.8, 1.0))  # noqa: S311  no secret
