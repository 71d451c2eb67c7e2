"""Exact leases over all replicas: each use of a rule with `max_uses` is taken in the store, and never given twice.

A use costs one round trip, and only requests under such a rule pay for it. What cannot be counted is refused: the store
is away, or it has lost what it knew and cannot show yet that nothing was forgotten (`use_scripts`).
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from cloned_proxy.fleet.envelope import Trust
from cloned_proxy.fleet.errors import EnvelopeError, StoreAwayError
from cloned_proxy.fleet.link import Link
from cloned_proxy.fleet.resumption import Resumption, read_resumption
from cloned_proxy.fleet.use_names import UseNames
from cloned_proxy.fleet.use_scripts import JOIN, LEAVE, TAKE
from cloned_proxy.store.atomic import write_atomically
from cloned_proxy.store.errors import StoreError
from cloned_proxy.store.files import read_regular_file
from cloned_proxy.telemetry.events import LeaseUsedUpError, UseNotCountedError

_log = structlog.get_logger(__name__)

SETTLE_MILLISECONDS: Final = 10_000
"""Nobody takes a use so long after a count began: whoever knows of an older one is heard first."""
_ACKNOWLEDGE_SECONDS: Final = 1.0
_MAX_MEMORY: Final = 4096
_REJOINED: Final = frozenset({"restarted", "changed"})
_WHY: Final = {
    "lost": "the store has lost its data, and with it how often leases were used; `cloned-proxy fleet resume` goes on",
    "disputed": "another count of uses began in the store than {} knows of; `cloned-proxy fleet resume` settles it",
    "waiting": "the store was restarted, and these replicas have not told yet what they used: {}; once they are gone "
    "for good, `cloned-proxy fleet resume` goes on without them",
    "settling": "a count of uses began; leases with `max_uses` are given in {} s",
    "restarted": "the store was restarted a moment ago",
    "changed": "another count of uses began in the store",
}


@dataclass(slots=True)
class _Memory:
    """What this replica knows of counts, on disk: the last generation, and when it was resumed (Unix seconds)."""

    path: Path
    generation: str = ""
    resumed: float = 0.0

    def load(self) -> None:
        """Raises StoreError: a memory that cannot be read is none that may be forgotten."""
        if not self.path.exists():
            return
        raw = read_regular_file(self.path, limit=_MAX_MEMORY, what="memory of used leases")
        try:
            known = json.loads(raw)
            self.generation, self.resumed = str(known["generation"]), float(known["resumed"])
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{self.path}: not readable ({type(error).__name__}); restore it, or run `cloned-proxy fleet resume` "
                "and delete it"
            ) from error

    def keep(self, generation: str, resumed: float) -> None:
        """Raises StoreError."""
        if (generation, resumed) == (self.generation, self.resumed):
            return
        write_atomically(self.path, json.dumps({"generation": generation, "resumed": resumed}).encode())
        self.generation, self.resumed = generation, resumed


class Uses:
    """One for each replica, on its event loop: `start` before the link does."""

    def __init__(
        self,
        link: Link,
        fleet: str,
        replica: str,
        *,
        memory: Path,
        trust: Trust,
        taken_here: Callable[[], Mapping[str, int]],
        acknowledged_by: int = 0,
        settle: int = SETTLE_MILLISECONDS,
        on_outcome: Callable[[str], None] = lambda _outcome: None,
    ) -> None:
        """`taken_here` gives the uses by rule that this replica took, from its own disk; it may block.

        `acknowledged_by` followers of the store must have a use before it is given. Raises StoreError.
        """
        self._link = link
        self._fleet = fleet
        self._names = UseNames(fleet)
        self._me = replica
        self._memory = _Memory(memory)
        self._memory.load()
        self._trust = trust
        self._taken_here = taken_here
        self._taken: dict[str, int] = {}
        """By rule, since this process began: the disk may not have heard of the last ones."""
        self._acknowledged_by = acknowledged_by
        self._settle = settle
        self._on_outcome = on_outcome
        self._joining = asyncio.Lock()
        self._joins = 0
        self.problem = ""
        """Why no use is given now; "" while they are, as far as is known."""
        self.totals: dict[str, int] = {}
        """Uses of all replicas by rule, as they were when this one last took one."""

    async def join(self) -> None:
        """Tells the store what was used here; after each connect, before anything is taken. Raises StoreAwayError."""
        async with self._joining:
            await self._join()

    async def leave(self) -> None:
        """At a stop: the store need not wait for this replica after a restart. Raises StoreAwayError."""
        names = self._names
        await self._link.run(lambda redis: redis.eval(LEAVE, 2, names.members, names.waiting, self._me))

    async def take(self, rule: str, uses: int) -> int:
        """Takes one of a rule's uses over all replicas; returns how many are taken then.

        Raises LeaseUsedUpError, and UseNotCountedError when it cannot be known. A use that was taken in a call whose
        answer did not come is lost: it is never given twice.
        """
        joins = self._joins
        answer, told = await self._take(rule, uses)
        if answer in _REJOINED:
            await self._rejoin(joins)
            answer, told = await self._take(rule, uses)
        match answer:
            case "taken":
                self._say("")
                self._taken[rule] = self._taken.get(rule, 0) + 1
                self.totals[rule] = int(told)
                self._on_outcome("taken")
                return int(told)
            case "used_up":
                self._say("")
                self.totals[rule] = int(told)
                self._on_outcome("used_up")
                raise LeaseUsedUpError(rule)
            case _:
                raise self._refusal(_WHY.get(answer, answer).format(told))

    async def _take(self, rule: str, uses: int) -> tuple[str, str]:
        names = self._names
        keys = (names.ledger, names.members, names.waiting, names.uses(rule))

        async def work(redis: Any) -> list[Any]:
            # On one connection: the followers are asked about what this very connection has written.
            async with redis.pipeline(transaction=False) as calls:
                calls.eval(TAKE, len(keys), *keys, self._me, self._memory.generation, uses)
                if self._acknowledged_by:
                    calls.wait(self._acknowledged_by, int(_ACKNOWLEDGE_SECONDS * 1000))
                found: list[Any] = await calls.execute()
                return found

        try:
            (answer, told), *acknowledged = await self._link.run(work)
        except StoreAwayError as error:
            raise self._refusal(str(error)) from error
        if answer == b"taken" and acknowledged and acknowledged[0] < self._acknowledged_by:
            # It is spent all the same: nobody can tell which followers have it.
            raise self._refusal(
                f"{acknowledged[0]} followers of the store have confirmed a use, and {self._acknowledged_by} must"
            )
        return answer.decode(), told.decode()

    async def _rejoin(self, seen: int) -> None:
        try:
            async with self._joining:
                if self._joins == seen:  # else somebody else has done it meanwhile
                    await self._join()
        except StoreAwayError as error:
            raise self._refusal(str(error)) from error

    async def _join(self) -> None:
        try:
            await self._follow_resumption()
            own = dict(await asyncio.to_thread(self._taken_here))
            for rule, count in self._taken.items():
                own[rule] = max(count, own.get(rule, 0))
            names = self._names
            keys = [names.ledger, names.members, names.waiting, *map(names.uses, own)]
            values = [self._me, self._memory.generation, secrets.token_hex(8), self._settle, *own.values()]
            answer, generation, _ = await self._link.run(
                lambda redis: redis.eval(JOIN, len(keys), *keys, *map(str, values))
            )
            if answer == b"joined":
                self._memory.keep(generation.decode(), self._memory.resumed)
                self._say("")
            else:
                self._say(_WHY[answer.decode()].format(self._me))
        except StoreAwayError:
            raise
        except StoreError as error:  # our own disk: what was used here is not known, so nothing is given
            self._say(str(error))
        self._joins += 1

    async def _follow_resumption(self) -> None:
        """Goes over to a count that an operator has begun and signed; nobody else can make a replica forget."""
        names = self._names

        async def read(redis: Any) -> Any:
            return await redis.hmget(names.ledger, "generation", "resume")

        generation, raw = await self._link.run(read)
        if not raw or generation is None or generation.decode() == self._memory.generation:
            return
        try:
            resumed: Resumption = read_resumption(raw, self._trust, self._fleet)
        except EnvelopeError as error:
            _log.warning("a count of uses was begun anew by nobody who may; it is not followed", reason=str(error))
            return
        if resumed.generation == generation.decode() and resumed.at > self._memory.resumed:
            self._memory.keep(resumed.generation, resumed.at)

    def _refusal(self, why: str) -> UseNotCountedError:
        self._say(why)
        self._on_outcome("not_counted")
        return UseNotCountedError(why)

    def _say(self, problem: str) -> None:
        """Tells the log once what is wrong, and once that it is over."""
        if problem and not self.problem:
            _log.warning("leases with max_uses are refused: their uses cannot be counted", reason=problem)
        elif self.problem and not problem:
            _log.info("leases with max_uses are given again")
        self.problem = problem
