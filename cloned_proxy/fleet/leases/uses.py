"""Exact leases over all replicas: each use of a rule with `max_uses` is taken in the store, and never given twice.

A use costs one round trip, and only requests under such a rule pay for it. What cannot be counted is refused: the store
is away, or it has lost what it knew and cannot show yet that nothing was forgotten (`use_scripts`).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import structlog

from cloned_proxy.fleet.leases.resumption import LeaseResumption, read_resumption
from cloned_proxy.fleet.leases.use_answers import MAX_TOLD, NONSENSE, UseAnswer
from cloned_proxy.fleet.leases.use_memory import UseMemory
from cloned_proxy.fleet.leases.use_names import UseNames
from cloned_proxy.fleet.leases.use_scripts import JOIN, LOOK, TAKE
from cloned_proxy.fleet.link.link import Link
from cloned_proxy.fleet.signed.envelope import Trust
from cloned_proxy.fleet.signed.errors import EnvelopeError, StoreAwayError
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.telemetry.events import LeaseUsedUpError, UseNotCountedError

_log = structlog.get_logger(__name__)

FORGET_MILLISECONDS: Final = 400 * 86_400_000
"""A rule's uses leave the store when for so long no replica has asked for one, or connected that had taken one."""
_ACKNOWLEDGE_SECONDS: Final = 1.0
_LOOK_SECONDS: Final = 2.0
"""Between two looks at whether a count began; a new one settles for longer (`resuming`)."""
_REJOINED: Final = frozenset({"changed", "unknown", "lost"})
_RESUME: Final = "; `cloned-proxy fleet resume` goes on"
_WHY: Final = {
    "lost": "the store counts no uses of leases: nothing was published there yet, or it has lost its data" + _RESUME,
    "disputed": "another count of uses began in the store than {} knows of" + _RESUME,
    "restarted": "another server answers than the one that counted, which may have forgotten uses" + _RESUME,
    "behind": "the store has forgotten uses of which {} knows" + _RESUME,
    "settling": "a count of uses began; leases with `max_uses` are given in {} s",
    "changed": "another count of uses began in the store",
    "moved": "a count of uses began in the store this moment; it is looked at again",
    "unknown": "the store does not know this replica any more",
}


def _why(answer: str, told: str) -> str:
    """What an answer of the scripts means. What the store has told is quoted, and read as nothing else."""
    return _WHY.get(answer, NONSENSE).format(told if told.isdecimal() else repr(told))


async def why_no_uses(link: Link, fleet: str) -> str:
    """Why the store gives no use of any lease until `fleet resume`; "" where it does. Raises StoreAwayError."""
    found = await link.run(lambda redis: redis.eval(LOOK, 1, UseNames(fleet).ledger))
    try:
        answer = UseAnswer.read(found)
    except ValueError:
        return NONSENSE
    return "" if answer.word == "counted" else _why(answer.word, answer.told).removesuffix(_RESUME)


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
        on_outcome: Callable[[str], None] = lambda _outcome: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`taken_here` gives the uses by rule that this replica took, from its own disk; it may block.

        `acknowledged_by` followers of the store must have a use before it is given. Raises StoreError.
        """
        self._link = link
        self._fleet = fleet
        self._names = UseNames(fleet)
        self._me = replica
        self._memory = UseMemory(memory)
        self._memory.load(clock())
        self._clock = clock
        self._trust = trust
        self._taken_here = taken_here
        self._under_way: Counter[str] = Counter()
        """By rule: uses that are taken, and perhaps not on this disk yet."""
        self._own: Counter[str] = Counter()
        """By rule: uses that the store must know of this replica; it has been told, or has given them."""
        self._acknowledged_by = acknowledged_by
        self._on_outcome = on_outcome
        self._joining = asyncio.Lock()
        self._joins = 0
        self._heard = False
        """Whether the store has taken in what was used here, in the count that it had then."""
        self._distrusted = b""
        """The word that was refused last, so that the log is told once."""
        self._ahead = b""
        """The word from the future that the log was told of last; it is looked at again, since clocks are set."""
        self.problem = ""
        """Why no use is given now; "" while they are, as far as is known."""
        self._said = False

    async def join(self) -> None:
        """Tells the store what was used here; after each connect, before anything is taken. Raises StoreAwayError."""
        async with self._joining:
            await self._join()

    async def run(self) -> None:
        """Joins a count that began meanwhile, though nothing is asked for here, until cancelled.

        Else the others would be given what was taken here before.
        """
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            if not self._link.connected:
                continue  # it joins at the connect
            try:
                if not self._heard or await self._generation() != self._memory.generation.encode():
                    await self.join()
            except StoreAwayError:
                continue  # the link tells the log
            except Exception:  # noqa: BLE001  one fault must not end the following
                _log.exception("the count of used leases cannot be followed; tried again")

    async def _generation(self) -> Any:
        return await self._link.run(lambda redis: redis.hget(self._names.ledger, "generation"))

    @contextlib.asynccontextmanager
    async def use(self, rule: str, uses: int) -> AsyncGenerator[int]:
        """Takes one of a rule's uses over all replicas; gives how many are taken then. Inside it goes on record here.

        Raises LeaseUsedUpError, and UseNotCountedError when it cannot be known. A use that was taken in a call whose
        answer did not come is lost: it is never given twice.
        """
        total = await self._counted(rule, uses)
        self._under_way[rule] += 1
        try:
            yield total
        finally:
            self._under_way[rule] -= 1
            if not self._under_way[rule]:
                del self._under_way[rule]

    async def _counted(self, rule: str, uses: int) -> int:
        joins = self._joins
        answer = await self._take(rule, uses)
        if answer.word in _REJOINED:
            self._heard = False
            await self._rejoin(joins)
            answer = await self._take(rule, uses)
        match answer.word:
            case "taken":
                self._say("")
                self._on_outcome("taken")
                return answer.number
            case "used_up":
                self._say("")
                self._on_outcome("used_up")
                raise LeaseUsedUpError(rule)
            case word:
                raise self._refusal(_why(word, answer.told))

    async def _take(self, rule: str, uses: int) -> UseAnswer:
        names = self._names
        keys = (names.ledger, names.members, names.uses(rule))

        async def work(redis: Any) -> list[Any]:
            # On one connection: the followers are asked about what this very connection has written.
            async with redis.pipeline(transaction=False) as calls:
                known = (self._memory.generation, self._memory.steps)
                calls.eval(TAKE, len(keys), *keys, self._me, *known, uses, FORGET_MILLISECONDS, rule, self._own[rule])
                if self._acknowledged_by:
                    calls.wait(self._acknowledged_by, int(_ACKNOWLEDGE_SECONDS * 1000))
                found: list[Any] = await calls.execute()
                return found

        generation = self._memory.generation
        try:
            found, *acknowledged = await self._link.run(work)
            answer = UseAnswer.read(found)
            confirmed = int(acknowledged[0]) if self._acknowledged_by else 0
        except StoreAwayError as error:
            raise self._refusal(str(error)) from error
        except (ValueError, TypeError, IndexError) as error:
            raise self._refusal(NONSENSE) from error
        if answer.word == "taken" and not 0 < answer.number <= uses:
            raise self._refusal("the store says that more uses are taken than there are")
        if generation == self._memory.generation:
            self._memory.steps = max(self._memory.steps, answer.steps)
            if answer.word == "taken":
                self._own[rule] += 1
        if answer.word == "taken" and confirmed < self._acknowledged_by:
            # The use is spent all the same: nobody can tell which followers have it.
            raise self._refusal(
                f"{confirmed} followers of the store have confirmed a use, and {self._acknowledged_by} must"
            )
        return answer

    async def _rejoin(self, seen: int) -> None:
        try:
            async with self._joining:
                if self._joins == seen:  # else somebody else has done it meanwhile
                    await self._join()
        except StoreAwayError as error:
            raise self._refusal(str(error)) from error

    async def _join(self) -> None:
        self._heard = False
        try:
            with self._link.parts.part("uses", self._names.ledger):
                seen = await self._follow_resumption()
                own = Counter(await asyncio.to_thread(self._taken_here))
                own.update(self._under_way)
                own |= self._own  # the greater number: what the store gave, and no record here tells of, stays taken
                names, memory = self._names, self._memory
                keys = [names.ledger, names.members, *map(names.uses, own)]
                values = (self._me, memory.generation, memory.steps, FORGET_MILLISECONDS, seen, memory.word)
                told = [str(value) for value in (*values, *(each for of in own.items() for each in of))]
                answer = UseAnswer.read(await self._link.run(lambda redis: redis.eval(JOIN, len(keys), *keys, *told)))
            if answer.word == "joined":
                self._own |= own
                await asyncio.to_thread(memory.keep, answer.steps)
                self._heard = True
                self._say("")
            else:
                why = _why(answer.word, self._me)
                if memory.generation and answer.word != "moved":
                    self._say(why)
                else:  # before the first policy nothing is counted, and there is nothing to tell
                    self.problem = why
        except StoreAwayError:
            raise
        except (StoreError, ValueError) as error:
            # Our own disk, and what was used here is not known; or an answer of no script. Nothing is given.
            self._say(str(error))
        self._joins += 1

    async def _follow_resumption(self) -> str:
        """Goes over to a count that an operator has begun and signed; nobody else can make a replica forget.

        Returns the generation that the store has; "" for none.
        """
        names = self._names

        async def read(redis: Any) -> Any:
            return await redis.hmget(names.ledger, "generation", "resume")

        generation, raw = await self._link.run(read)
        seen = (generation or b"")[:MAX_TOLD].decode("ascii", errors="replace")
        if not raw or raw == self._distrusted or seen == self._memory.generation:
            return seen
        try:
            resumed: LeaseResumption = read_resumption(raw, self._trust, self._fleet)
        except EnvelopeError as error:
            _log.warning("a count of uses was begun anew by nobody who may; it is not followed", reason=str(error))
            self._distrusted = raw
            return seen
        if not resumed.is_possible(self._clock()):
            if raw != self._ahead:
                _log.warning(
                    "a count of uses was begun that is dated in the future: it is not followed; set the clocks by NTP, "
                    "and run `cloned-proxy fleet resume`",
                    at=resumed.at,
                )
            self._ahead = raw
        elif resumed.generation == seen and resumed.at <= self._memory.resumed:
            _log.warning(
                "a count of uses was begun that is older than the one followed here: it is not followed; `cloned-proxy "
                "fleet resume` makes a newer one",
                at=resumed.at,
                followed=self._memory.resumed,
            )
            self._distrusted = raw
        elif resumed.generation == seen:
            _log.warning(
                "the count of used leases is resumed: what is on the disks of replicas stays taken",
                generation=resumed.generation,
                by=resumed.by,
                reason=resumed.reason,
            )
            await asyncio.to_thread(self._memory.follow, resumed.generation, resumed.at, raw)
        return seen

    def _refusal(self, why: str) -> UseNotCountedError:
        self._say(why)
        self._on_outcome("not_counted")
        return UseNotCountedError(why)

    def _say(self, problem: str) -> None:
        """Tells the log once what is wrong, and once that it is over."""
        if problem and not self._said:
            _log.error("leases with max_uses are refused: their uses cannot be counted", reason=problem)
        elif self._said and not problem:
            _log.info("leases with max_uses are given again")
        self.problem, self._said = problem, bool(problem)
        if self._link.connected or not problem:  # else the link says what is wrong
            self._link.parts.say("uses", problem)
