"""The policy from the store: subscribe, then read; read again after each reconnect; poll as a net."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Final

import structlog

from cloned_proxy.fleet.link.answers import MOST_ANSWERED
from cloned_proxy.fleet.link.link import Link
from cloned_proxy.fleet.link.names import Names
from cloned_proxy.fleet.signed.envelope import MAX_BYTES
from cloned_proxy.fleet.signed.errors import EnvelopeError, Refused, StoreAwayError, StoreRefusedError
from cloned_proxy.fleet.signed.pause import Pause, again_seconds
from cloned_proxy.fleet.signed.statement import Number
from cloned_proxy.fleet.signed_policy.source import Taker

_log = structlog.get_logger(__name__)

_GAP_SECONDS: Final = 0.01
"""Between two readings: news that comes in masses is read as one."""
_ENVELOPE_SECONDS: Final = 15.0
"""For an envelope of the largest policy."""


class StoreSource:
    """One for each process. Begins with the link, which somebody else starts and closes."""

    def __init__(self, link: Link, names: Names, *, poll: float) -> None:
        """`poll` is the longest time between two questions, in seconds."""
        self._link = link
        self._names = names
        self._poll = poll
        self._pause = Pause()
        self._dirty = asyncio.Event()
        self._reading = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._taker: Taker | None = None
        self.said = ""
        """What is wrong with what the store has, although it answers."""
        link.follow(names.policy_news, lambda _number: self._dirty.set())
        link.at_connect(self._at_connect)

    @property
    def connected(self) -> bool:
        return self._link.connected and "policy" not in self._link.parts.faults

    @property
    def problem(self) -> str:
        return self._link.problem or self._link.parts.faults.get("policy") or self.said

    async def start(self, taker: Taker) -> None:
        self._taker = taker
        self._task = asyncio.create_task(self._follow())

    async def read(self) -> None:
        with contextlib.suppress(StoreAwayError):  # the link says so
            await self._read()

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _at_connect(self) -> None:
        # A link over which nothing can be read does not stand.
        await self._read()

    async def _follow(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                # Replicas ask at different moments.
                async with asyncio.timeout(self._poll * random.uniform(0.5, 1.0)):  # noqa: S311  no secret
                    await self._dirty.wait()
            self._dirty.clear()
            await self._pause.over()
            try:
                await self._read()
            except StoreAwayError:
                # The link says so. It reads again where it breaks; one call that failed does not break it, and its news
                # is told once.
                await self._again()
            except Exception:  # noqa: BLE001  what one answer broke must not end the following
                _log.exception("the policy of the fleet could not be read; asked again")
                await self._again()
            await asyncio.sleep(_GAP_SECONDS)

    async def _again(self) -> None:
        if self._link.connected:
            self._dirty.set()
        await asyncio.sleep(again_seconds())

    async def _read(self) -> None:
        """Asks for the number, and for the envelope where it is another one. Raises StoreAwayError."""
        taker = self._taker
        if taker is None:
            return
        async with self._reading:
            try:
                with self._link.parts.part("policy", self._names.policy):
                    await self._take(taker)
            except StoreRefusedError:
                taker.refuse(EnvelopeError(Refused.FORMAT, self._link.parts.faults["policy"]))
                raise

    async def _take(self, taker: Taker) -> None:
        names = self._names
        fields = await self._link.run(lambda redis: redis.hmget(names.policy, ["epoch", "version", "sha256"]))
        if fields[0] is None:
            self.said = "the store has no policy of this fleet; publish one"
            return
        if _is([_bytes(field) for field in fields], taker.number, taker.sha256):
            self.said = ""
            taker.heard()
            return
        if self._pause.lasts:  # the next look is after it
            self._dirty.set()
            return
        began = self._pause.now()
        raw = await self._link.run(
            lambda redis: redis.hget(names.policy, "envelope"),
            within=_ENVELOPE_SECONDS,
            most=MAX_BYTES + MOST_ANSWERED,
        )
        taken = raw is not None and await taker.offer(_bytes(raw))
        self.said = "" if taken else "what the store has is not accepted; see the log"
        if not taken:
            self._pause.after(began)


def _bytes(answer: bytes | str | None) -> bytes:
    return answer if isinstance(answer, bytes) else (answer or "").encode()


def _is(fields: list[bytes], number: Number, sha256: str) -> bool:
    """Whether the store speaks of the policy in force. It may lie: then it withholds news, which it always can."""
    return tuple(fields) == (b"%d" % number.epoch, b"%d" % number.version, sha256.encode())
