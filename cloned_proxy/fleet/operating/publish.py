"""Publishing: sign, replace what was the newest if nobody was quicker, and count who has it in force.

The order of versions is the publisher's word. It continues what the store has, if a trusted key has signed that, and
what was published from here before; a store that lost its data or lies about them does not make it begin again.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog
from redis.exceptions import RedisError

from cloned_proxy.fleet.link.answers import MOST_ANSWERED, without_what_is_large
from cloned_proxy.fleet.link.client import CALL_SECONDS
from cloned_proxy.fleet.link.link import Link
from cloned_proxy.fleet.link.names import Names
from cloned_proxy.fleet.members.roster import Seen, everybody, read_report
from cloned_proxy.fleet.operating.resuming import begin_count
from cloned_proxy.fleet.signed.envelope import MAX_BYTES, Trust
from cloned_proxy.fleet.signed.errors import EnvelopeError, FleetError, StoreAwayError
from cloned_proxy.fleet.signed.keys import SigningKey
from cloned_proxy.fleet.signed.statement import FIRST, NOTHING, Number, Statement, open_statement, seal_statement
from cloned_proxy.store.files.atomic import write_atomically
from cloned_proxy.store.files.files import read_regular_file

_log = structlog.get_logger(__name__)

HISTORY: Final = 100
"""Versions that `rollback` can go back to."""
_EPOCHS_AHEAD: Final = 1000
_COPIES_SECONDS: Final = 2.0
"""How long the store's own replicas may take to confirm."""
_PUBLISH_SECONDS: Final = 15.0
_MOST_ANSWERED: Final = MAX_BYTES + MOST_ANSWERED
"""For an envelope of the largest policy."""

# KEYS: policy, policy:history, policy:order. ARGV: expected number, epoch, version, sha256, envelope, channel, history.
_PUBLISH: Final = """
local now = (redis.call('HGET', KEYS[1], 'epoch') or '0') .. '.' .. (redis.call('HGET', KEYS[1], 'version') or '0')
if now ~= ARGV[1] then return {0, now} end
local number = ARGV[2] .. '.' .. ARGV[3]
redis.call('HSET', KEYS[1], 'epoch', ARGV[2], 'version', ARGV[3], 'sha256', ARGV[4], 'envelope', ARGV[5])
redis.call('HSET', KEYS[2], number, ARGV[5])
redis.call('LPUSH', KEYS[3], number)
while redis.call('LLEN', KEYS[3]) > tonumber(ARGV[7]) do
  redis.call('HDEL', KEYS[2], redis.call('RPOP', KEYS[3]))
end
redis.call('PUBLISH', ARGV[6], number)
return {1, number}
"""


def _far(known: Number) -> Number:
    """What no replica can have. Reports are not proven, and one that is made up must not use up the numbers."""
    return Number(known.epoch + _EPOCHS_AHEAD, 0)


class PublishConflictError(FleetError):
    """Somebody else has published meanwhile. Nothing was changed."""


@dataclass(frozen=True, slots=True)
class Newest:
    """What the store has."""

    said: bytes
    """What it says for a number, letter for letter: what a replacement must name, and worth nothing else."""
    statement: Statement | None
    """What a trusted key has signed of it; None for nothing, or for something else."""


@dataclass(frozen=True, slots=True)
class PublishedPolicy:
    """What became of a publish."""

    number: Number
    sha256: str
    copies: int
    """Replicas of the store itself that have confirmed it."""
    in_force: tuple[str, ...]
    """Replicas of the fleet."""
    behind: tuple[str, ...]
    """Those that were live and have not said within the time that they have it in force."""
    milliseconds: float
    """From the store's acknowledgement to the last one of `in_force`."""


class Publisher:
    """One publish, or several after each other."""

    def __init__(
        self, link: Link, names: Names, *, fleet: str, trust: Trust, keys: Sequence[SigningKey], record: Path
    ) -> None:
        """`record` is where the last number that was published from here is kept."""
        self._link = link
        self._names = names
        self._fleet = fleet
        self._trust = trust
        self._keys = keys
        self._record = record

    async def newest(self) -> Newest:
        """Raises StoreAwayError."""
        fields: Any = await self._link.run(
            lambda redis: redis.hmget(self._names.policy, ["epoch", "version", "envelope"]),
            within=_PUBLISH_SECONDS,
            most=_MOST_ANSWERED,
        )
        epoch, version, raw = fields
        said = b"%b.%b" % (b"0" if epoch is None else epoch, b"0" if version is None else version)
        try:
            return Newest(said, open_statement(raw, self._fleet, self._trust) if raw else None)
        except EnvelopeError:
            return Newest(said, None)

    async def old(self, number: Number) -> Statement:
        """What was published under this number. Raises FleetError."""
        raw: Any = await self._link.run(
            lambda redis: redis.hget(self._names.policy_history, str(number)),
            within=_PUBLISH_SECONDS,
            most=_MOST_ANSWERED,
        )
        if raw is None:
            raise FleetError(f"the store has no version {number}; `cloned-proxy fleet status --history` lists them")
        found = open_statement(raw, self._fleet, self._trust)
        if found.number != number:  # a store must not choose which old policy is signed anew
            raise FleetError(f"the store has {found.number} under the number {number}; its history was changed")
        return found

    async def numbers(self) -> list[str]:
        """What `old` can find, the newest first."""
        found: Any = await self._link.run(lambda redis: redis.lrange(self._names.policy_order, 0, -1))
        return [each.decode(errors="replace") for each in found]

    async def publish(
        self,
        policy: bytes,
        presets: dict[str, bytes],
        *,
        author: str,
        reason: str,
        new_epoch: bool = False,
        wait: float = 5.0,
    ) -> PublishedPolicy:
        """Signs and publishes, and waits at most `wait` seconds for the replicas.

        Raises ConflictError, StoreAwayError, and FleetError where the replicas know of a newer policy than the store.
        """
        newest, replicas = await self.newest(), await everybody(self._link, self._names)
        number = self._next(newest, replicas, new_epoch=new_epoch)
        statement = Statement(self._fleet, number, policy, presets, time.time(), author, reason)
        envelope = seal_statement(statement, self._keys)
        # Ours must be among those whom the replicas trust, or nobody would accept it.
        open_statement(envelope, self._fleet, self._trust)
        write_atomically(self._record, json.dumps([number.epoch, number.version]).encode())
        published = await self._counted(
            replicas, statement, lambda: self._replace(newest.said, statement, envelope), wait=wait
        )
        if number == FIRST and not new_epoch:
            await self._begin_count(author)
        return published

    async def _begin_count(self, author: str) -> None:
        """Has uses of leases counted from now on. Later that is `fleet resume`: what is empty then has forgotten."""
        try:
            await begin_count(self._link, self._fleet, self._keys[0], before=b"", by=author, reason="the first policy")
        except StoreAwayError as error:
            _log.warning("the count of used leases has not begun; run `cloned-proxy fleet resume`", reason=str(error))

    def _next(self, newest: Newest, replicas: Sequence[Seen], *, new_epoch: bool) -> Number:
        known = newest.statement.number if newest.statement is not None else NOTHING
        known = max(known, self._last_from_here())
        ahead = [each.report for each in replicas if each.live and known < each.report.number < _far(known)]
        if new_epoch:
            return Number(max([known, *(report.number for report in ahead)]).epoch + 1, 1)
        if ahead:
            raise FleetError(
                f"{ahead[0].replica} says that it has version {ahead[0].number} in force, newer than what the store "
                "has: the store may have lost data. `--new-epoch` publishes after all of them"
            )
        return Number(max(known.epoch, 1), known.version + 1)

    def _last_from_here(self) -> Number:
        if not self._record.exists():
            return NOTHING
        try:
            epoch, version = json.loads(
                read_regular_file(self._record, limit=1024, what="record of what was published")
            )
            return Number(int(epoch), int(version))
        except (ValueError, TypeError) as error:
            raise FleetError(f"{self._record}: damaged; delete it, and publish with `--new-epoch`") from error

    async def _replace(self, expected: bytes, statement: Statement, envelope: bytes) -> int:
        names, number = self._names, statement.number
        keys = (names.policy, names.policy_history, names.policy_order)
        arguments = (
            *(expected, str(number.epoch), str(number.version), statement.sha256, envelope),
            *(names.policy_news, str(HISTORY)),
        )

        async def work(redis: Any) -> tuple[bool, bytes, int]:
            # WAIT speaks of what the same connection wrote.
            async with redis.client() as one:
                taken, said = await one.eval(_PUBLISH, len(keys), *keys, *arguments)
                copies = int((await one.info("replication")).get("connected_slaves", 0)) if taken == 1 else 0
                done = await one.wait(copies, int(_COPIES_SECONDS * 1000)) if copies else 0
                return taken == 1, said, int(done)

        taken, said, copies = await self._link.run(work, within=_PUBLISH_SECONDS)
        if not taken:
            raise PublishConflictError(
                f"version {said.decode(errors='replace')[:40]} was published meanwhile; look at it, and publish again"
            )
        return copies

    async def _counted(
        self, replicas: Sequence[Seen], statement: Statement, put: Callable[[], Awaitable[int]], *, wait: float
    ) -> PublishedPolicy:
        """Publishes, and counts who says that it is in force."""
        expected = {(each.report.replica, each.report.worker) for each in replicas if each.live}
        missing = set(expected)
        pubsub = self._link.redis.pubsub()
        try:
            async with asyncio.timeout(CALL_SECONDS):
                await pubsub.subscribe(self._names.replica_news)
                await pubsub.get_message(timeout=CALL_SECONDS)
        except (RedisError, OSError, TimeoutError) as error:
            await pubsub.aclose()  # type: ignore[no-untyped-call]  # not typed there
            raise StoreAwayError(
                f"{self._link.url}: no answer within {CALL_SECONDS:g} s; nothing was published"
            ) from error
        try:
            copies = await put()
            began = last = time.monotonic()
            while missing and (left := began + wait - time.monotonic()) > 0:
                with without_what_is_large():
                    message: Any = await pubsub.get_message(ignore_subscribe_messages=True, timeout=left)
                report = read_report(message["data"]) if message is not None else None
                if report is not None and report.number >= statement.number:
                    missing.discard((report.replica, report.worker))
                    last = time.monotonic()
        except (RedisError, OSError, TimeoutError) as error:  # `put` raises a StoreError
            raise FleetError(
                f"{statement.number} is published; who has it is not known, since the store went away: `cloned-proxy "
                "fleet status` tells when it is back"
            ) from error
        finally:
            await pubsub.aclose()  # type: ignore[no-untyped-call]  # not typed there
        away = {replica for replica, _ in missing}
        done = tuple(sorted({replica for replica, _ in expected} - away))
        return PublishedPolicy(
            statement.number, statement.sha256, copies, done, tuple(sorted(away)), (last - began) * 1000
        )
