"""Sends the log to the store, behind the disk and behind traffic: what is sent is on record here already.

The log itself is the queue, and the store says how far it has come, so neither side has to remember anything: after a
crash of either one the sending goes on where the store stands. Each entry lies under its own number. A script sends a
group only if the last one that is there is the one expected, so nothing is there twice and nothing between two.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import structlog

from cloned_proxy.fleet.errors import StoreAwayError
from cloned_proxy.fleet.link import Link
from cloned_proxy.fleet.names import Names
from cloned_proxy.fleet.receipt import anchor_of, head_of, log_id, new_log_id
from cloned_proxy.store.database import open_database
from cloned_proxy.store.errors import StoreError
from cloned_proxy.telemetry.shipping_metrics import ShippingMetrics

_log = structlog.get_logger(__name__)

_EVERY_SECONDS: Final = 0.5
_LONGEST_PAUSE: Final = 15.0
_GROUP: Final = 500
_GROUP_BYTES: Final = 1 << 20
_RECEIPTS: Final = 1000
"""Of each log: three days of them."""
_LOOKED_AT: Final = 8
"""Logs, each time: by and by all that have expired are taken out of the list."""
_MOST_DIGITS: Final = 20
_FORGOTTEN_SECONDS: Final = 90 * 86_400
"""A log to which nothing is added for so long leaves the store by itself."""

# KEYS: the stream. ARGV: the last id expected, entries to keep, seconds to keep, then number, name and value of each
# field of each entry. Answers with the last id that is there: whether it is the expected one says what was done.
_APPEND: Final = """
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
local id = last[1] and last[1][1] or ''
if id ~= ARGV[1] then return {0, id} end
for at = 4, #ARGV, 3 do
  id = ARGV[at] .. '-0'
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], id, 'hash', ARGV[at + 1], 'body', ARGV[at + 2])
end
redis.call('EXPIRE', KEYS[1], ARGV[3])
return {1, id}
"""


class Row(NamedTuple):
    """An entry, or a receipt under the number of its entry."""

    seq: int
    hash: str
    body: str
    at: float


class LocalLog:
    """What is read of state.db, in a thread of its own connections. Every method raises StoreError."""

    def __init__(self, path: Path) -> None:
        self._path: Final = path

    def identify(self) -> str:
        """The id of the log."""
        return self._with(log_id)

    def rename(self) -> str:
        """Gives it a new id."""
        return self._with(new_log_id)

    def bounds(self) -> tuple[int, int]:
        """The number before the oldest entry, and that of the newest."""
        return self._with(lambda database: (anchor_of(database).seq, head_of(database).seq))

    def hash_of(self, seq: int) -> str | None:
        """Of an entry that is still there, or of the one that the oldest follows."""

        def look(database: sqlite3.Connection) -> str | None:
            anchor = anchor_of(database)
            if seq == anchor.seq:
                return anchor.hash
            row = database.execute("SELECT hash FROM entries WHERE seq = ?", (seq,)).fetchone()
            return None if row is None else str(row[0])

        return self._with(look)

    def after(self, seq: int) -> list[Row]:
        """The entries that go out together."""
        query = "SELECT seq, hash, body, at FROM entries WHERE seq > ? ORDER BY seq LIMIT ?"
        rows = self._with(lambda database: database.execute(query, (seq, _GROUP)).fetchall())
        group: list[Row] = []
        size = 0
        for row in rows:
            size += len(row[2])
            if group and size > _GROUP_BYTES:
                break
            group.append(Row(row[0], row[1], row[2], row[3] or 0.0))
        return group

    def receipts_after(self, seq: int) -> list[Row]:
        query = "SELECT seq, '', envelope, at FROM receipts WHERE seq > ? ORDER BY seq LIMIT ?"
        return [Row(*row) for row in self._with(lambda database: database.execute(query, (seq, _GROUP)).fetchall())]

    def _with[T](self, work: Callable[[sqlite3.Connection], T]) -> T:
        database = open_database(self._path)
        try:
            return work(database)
        except sqlite3.Error as error:
            raise StoreError(f"{self._path}: {error}; run `cloned-proxy audit verify`") from error
        finally:
            database.close()


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
        """Of the log; "" until it is known how far the store has come."""
        self._last = 0
        self._last_id = ""
        """The newest that is there, as the store names it; "" for an empty stream."""
        self._receipt = 0
        self._receipt_id = ""
        self._announced = False
        self._failing = False

    async def work(self) -> None:
        """Until it is cancelled."""
        pause = _EVERY_SECONDS
        while True:
            pause = _EVERY_SECONDS if await self.ship() else min(pause * 2, _LONGEST_PAUSE)
            await asyncio.sleep(pause)

    async def ship(self) -> bool:
        """Sends all that is on record now. False, once said, when that cannot be done; it is tried again."""
        try:
            await self._ship()
        except Exception as error:  # noqa: BLE001  an answer that none is must not end the sending for good
            self._id = ""
            await self._tell_lag()
            if not self._failing:
                reason = str(error) if isinstance(error, StoreError) else f"an answer that is none: {error!r:.200}"
                _log.warning("the log cannot be sent to the store of the fleet; it waits here", reason=reason)
            self._failing = True
            return False
        if self._failing:
            _log.info("the log is sent to the store of the fleet again")
        self._failing = False
        await self._tell_lag()
        return True

    async def _ship(self) -> None:
        if not self._id:
            await self._resume()
        resumed = False
        while group := await asyncio.to_thread(self._local.after, self._last):
            stream = self._names.audit(self._id)
            done, self._last_id = await self._append(stream, self._last_id, self._keep, group)
            if not done:
                if resumed:
                    raise StoreAwayError("the store says again and again that it stands elsewhere")
                # It has lost something, or an answer was lost: it says where it stands.
                await self._resume()
                resumed = True
                continue
            resumed = False
            self._last = group[-1].seq
            self._metrics.shipped(len(group))
            await self._announce()
        while group := await asyncio.to_thread(self._local.receipts_after, self._receipt):
            stream = self._names.audit_receipts(self._id)
            done, self._receipt_id = await self._append(stream, self._receipt_id, _RECEIPTS, group)
            before, self._receipt = self._receipt, group[-1].seq if done else _number(self._receipt_id)
            if not done and self._receipt <= before:
                raise StoreAwayError("the store takes no receipt")

    async def _append(self, stream: str, last: str, keep: int, group: Sequence[Row]) -> tuple[bool, str]:
        values: list[str | int | bytes] = [last, keep, _FORGOTTEN_SECONDS]
        for row in group:
            values += [row.seq, row.hash, row.body.encode(errors="surrogatepass")]

        async def work(redis: Any) -> list[Any]:
            found: list[Any] = await redis.eval(_APPEND, 1, stream, *values)
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
            name, last_id, last = await asyncio.to_thread(self._local.rename), "", 0
        first = max(last, oldest, newest - self._keep)
        if first > last and (last_id or first > oldest):
            self._metrics.skipped(first - last)
        self._last, self._last_id = first, last_id
        self._receipt_id, _ = await self._newest(self._names.audit_receipts(name))
        self._receipt = _number(self._receipt_id)
        self._id, self._announced = name, False
        if last_id:
            await self._announce()

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
        # Of what has been pruned here no hash is left to compare.
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
            _, newest = await asyncio.to_thread(self._local.bounds)
            waiting = await asyncio.to_thread(self._local.after, self._last) if newest > self._last else []
        except StoreError:
            return
        self._metrics.lag(max(0, newest - self._last), max(0.0, self._clock() - waiting[0].at) if waiting else 0.0)


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _number(identifier: str) -> int:
    """Of the entry under this id of a stream; 0 for none."""
    number = identifier.partition("-")[0]
    return int(number) if number.isascii() and number.isdecimal() and len(number) <= _MOST_DIGITS else 0
