"""Sends the log to the store, behind the disk and behind traffic: what is sent is on record here already.

The log itself is the queue, and the store says how far it has come, so neither side has to remember anything: after a
crash of either one the sending goes on where the store stands. Each group lies under the number of its last entry, and
a script adds it only if the last one that is there is the one expected, so nothing is there twice and nothing between.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any, Final

import structlog

from cloned_proxy.fleet.audit.local_log import GROUP_BYTES, Group, LocalLog
from cloned_proxy.fleet.audit.stream_form import APPEND, Item
from cloned_proxy.fleet.link.client import CALL_SECONDS
from cloned_proxy.fleet.link.link import Link
from cloned_proxy.fleet.link.names import Names
from cloned_proxy.fleet.signed.errors import StoreAwayError, StoreRefusedError
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.leases.deadline import uptime
from cloned_proxy.telemetry.shipping_metrics import ShippingMetrics

_log = structlog.get_logger(__name__)

_EVERY_SECONDS: Final = 1.0
_LONGEST_PAUSE: Final = 15.0
_RECEIPTS: Final = 1000
"""Receipts that are kept of each log: three days of them."""
_LOOKED_AT: Final = 8
"""Logs, each time: by and by all that have expired are taken out of the list."""
_MOST_DIGITS: Final = 20
_CALL_BYTES: Final = 4 * GROUP_BYTES
"""Of groups that are sent in one call: one of four groups costs little more than one of a tenth of that."""
_QUICK_SECONDS: Final = CALL_SECONDS / 8
"""After a call that took no longer the next one may be twice as large, and stays well within its time."""
_RENAMED_SECONDS: Final = 3600.0
"""Between two new ids of a log: a store could make it forget what it was called before."""
_FORGOTTEN_SECONDS: Final = 90 * 86_400
"""A log to which nothing is added for so long leaves the store by itself."""


class AuditShipper:
    """One for each workspace: of several workers, the leading one's."""

    def __init__(
        self,
        log: LocalLog,
        link: Link,
        names: Names,
        *,
        replica: str,
        key: str,
        keep: int,
        metrics: ShippingMetrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`key` is the public key that the receipts are signed with, `keep` the entries that the store holds."""
        self._local: Final = log
        self._link: Final = link
        self._names: Final = names
        self._said: Final = json.dumps({"replica": replica, "key": key})
        self._keep: Final = keep
        self._metrics: Final = metrics
        self._clock: Final = clock
        self._id = ""
        """Id of the log; "" until it is known how far the store has come."""
        self._last = 0
        self._last_id = ""
        """The newest that is there, as the store names it; "" for an empty stream."""
        self._receipt = 0
        self._receipt_id = ""
        self._announced = False
        self._renamed_at = float("-inf")
        self._failing = False
        self._call_bytes = GROUP_BYTES
        """Of the groups that are sent next, as the store was quick before; the first group goes in any case."""

    async def work(self) -> None:
        """Until it is cancelled."""
        pause = _EVERY_SECONDS
        while True:
            pause = _EVERY_SECONDS if await self.ship() else min(pause * 2, _LONGEST_PAUSE)
            await asyncio.sleep(pause)

    async def ship(self) -> bool:
        """Sends all that is on record now. False, once said, when that cannot be done; it is tried again."""
        try:
            with self._link.parts.part("log", self._names.audit_logs):
                await self._ship()
        except Exception as error:  # noqa: BLE001  an answer that none is must not end the sending for good
            self._id, self._call_bytes = "", GROUP_BYTES
            await self._tell_lag()
            if not self._failing:
                reason = str(error) if isinstance(error, StoreError) else f"an answer that is none: {error!r:.200}"
                _log.warning("the log cannot be sent to the store of the fleet; it waits here", reason=reason)
            self._failing = True
            return False
        if self._failing:
            _log.info("the log is sent to the store of the fleet again")
        self._failing = False
        self._metrics.lag(0, 0.0)
        return True

    async def _ship(self) -> None:
        """Returns once all is sent that was on record at the last look: what came during it goes with the next."""
        if not self._id:
            await self._resume()
        resumed = ""
        while True:
            news = await asyncio.to_thread(self._local.news, self._last, self._receipt, most=self._call_bytes)
            if news.groups and not await self._send_groups(news.groups):
                if resumed == self._id:
                    raise StoreAwayError("the store says again and again that it stands elsewhere")
                # The store has lost something, or an answer was lost: the store says where it stands.
                await self._resume()
                resumed = self._id
                continue
            resumed = ""
            if news.receipts:
                await self._send_receipts(news.receipts)
            if self._last >= news.newest or not news.groups:
                return

    async def _send_groups(self, groups: list[Group]) -> bool:
        """False when the store stands elsewhere, and has taken none."""
        items, began = [group.item for group in groups], uptime()
        try:
            kept = ("MINID", max(0, items[-1].seq - self._keep))
            done, now = await self._append(self._names.audit(self._id), self._last_id, kept, items)
        except StoreRefusedError:
            # The newest was taken out there, and a stream takes no number again that it has had.
            _log.warning("the store takes nothing more under the id of this log, which gets a new one")
            self._id = await self._rename()
            return False
        self._last_id = now
        if not done:
            return False
        quick = uptime() <= began + _QUICK_SECONDS
        self._call_bytes = min(2 * self._call_bytes, _CALL_BYTES) if quick else GROUP_BYTES
        self._last = items[-1].seq
        self._metrics.shipped(sum(group.entries for group in groups))
        await self._announce()
        return True

    async def _send_receipts(self, receipts: list[Item]) -> None:
        stream = self._names.audit_receipts(self._id)
        done, self._receipt_id = await self._append(stream, self._receipt_id, ("MAXLEN", _RECEIPTS), receipts)
        before, self._receipt = self._receipt, receipts[-1].seq if done else _number(self._receipt_id)
        if not done and self._receipt <= before:
            raise StoreAwayError("the store takes no receipt")

    async def _append(self, stream: str, last: str, kept: tuple[str, int], items: list[Item]) -> tuple[bool, str]:
        arguments = (last, *kept, _FORGOTTEN_SECONDS, *(part for item in items for part in item))

        async def work(redis: Any) -> list[Any]:
            found: list[Any] = await redis.eval(APPEND, 1, stream, *arguments)
            return found

        done, now = await self._link.run(work)
        return bool(done), _text(now)

    async def _resume(self) -> None:
        """Asks the store how far it has come, and checks that it is this log which has come there."""
        name = await asyncio.to_thread(self._local.identify)
        last_id, last_hash = await self._newest(self._names.audit(name))
        oldest, newest = await asyncio.to_thread(self._local.bounds)
        last = _number(last_id)
        if last_id and not await self._is_ours(last, last_hash, oldest, newest):
            _log.warning(
                "the store holds another log under this one's id: state.db was copied or set back; it gets a new id"
            )
            name, last_id, last = await self._rename(), "", 0
        first = max(last, oldest, newest - self._keep)
        if first > last and (last_id or first > oldest):
            self._metrics.skipped(first - last)
        self._last, self._last_id = first, last_id
        self._receipt_id, _ = await self._newest(self._names.audit_receipts(name))
        # Those from before are of another id, and would prove nothing under this one.
        self._receipt = max(_number(self._receipt_id), await asyncio.to_thread(self._local.renamed))
        self._id, self._announced = name, False
        if last_id:
            await self._announce()

    async def _rename(self) -> str:
        """Raises StoreRefusedError where that was so a moment ago: a store that does it again gains nothing."""
        if uptime() < self._renamed_at + _RENAMED_SECONDS:
            raise StoreRefusedError(
                "the store again takes nothing under the id of this log, which gets a new one once an hour"
            )
        name = await asyncio.to_thread(self._local.rename)
        self._renamed_at = uptime()
        return name

    async def _announce(self) -> None:
        """Says whose log it is, once there is anything of it; and takes out some whose streams have expired."""
        if self._announced:
            return

        async def work(redis: Any) -> None:
            await redis.hset(self._names.audit_logs, self._id, self._said)
            for name in await redis.hrandfield(self._names.audit_logs, _LOOKED_AT) or ():
                if not await redis.exists(self._names.audit(_text(name))):
                    await redis.hdel(self._names.audit_logs, name)

        await self._link.run(work)
        self._announced = True

    async def _is_ours(self, last: int, last_hash: str, oldest: int, newest: int) -> bool:
        if last > newest:
            return False
        # An entry that has been pruned here has no hash left to compare.
        return last < oldest or await asyncio.to_thread(self._local.hash_of, last) == last_hash

    async def _newest(self, stream: str) -> tuple[str, str]:
        """Id and hash of the newest that is there; "" for none."""

        async def work(redis: Any) -> list[Any]:
            found: list[Any] = await redis.xrevrange(stream, count=1)
            return found

        rows = await self._link.run(work)
        if not rows:
            return "", ""
        identifier, fields = rows[0]
        # An entry without fields has come there in another way than this.
        return _text(identifier), _text(fields.get(b"hash", b"")) if isinstance(fields, dict) else ""

    async def _tell_lag(self) -> None:
        try:
            newest, waits_since = await asyncio.to_thread(self._local.lag, self._last)
        except StoreError:
            return
        seconds = 0.0 if waits_since is None else max(0.0, self._clock() - waits_since)
        self._metrics.lag(max(0, newest - self._last), seconds)


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _number(identifier: str) -> int:
    """Number of the entry under this id of a stream; 0 for none."""
    number = identifier.partition("-")[0]
    return int(number) if number.isascii() and number.isdecimal() and len(number) <= _MOST_DIGITS else 0
