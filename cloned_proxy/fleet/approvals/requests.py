"""The requests of all replicas on this one, and the decisions on them, which come in force here.

What is told by the store is read whole at each connect, at each piece of news, and now and then: it is small.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, Final

import structlog

from cloned_proxy.fleet.approvals.bounds import Allowance, Remembered
from cloned_proxy.fleet.approvals.decision import LONGEST_SECONDS, SKEW_SECONDS, FleetDecision
from cloned_proxy.fleet.approvals.decision_reader import DecisionReader
from cloned_proxy.fleet.approvals.in_force import ApprovalsInForce
from cloned_proxy.fleet.approvals.offered import Offered
from cloned_proxy.fleet.approvals.request_store import (
    ASK,
    LONGEST_ID,
    LONGEST_MILLISECONDS,
    MOST,
    MOST_ANSWERED,
    MOST_BYTES,
    READ,
    READ_BOUNDS,
    RequestNames,
)
from cloned_proxy.fleet.link.link import Link
from cloned_proxy.fleet.signed.envelope import Trust
from cloned_proxy.fleet.signed.errors import StoreAwayError
from cloned_proxy.fleet.signed.pause import Pause, again_seconds
from cloned_proxy.policy.terms.rule import Rule
from cloned_proxy.store.approvals.approval import Approval
from cloned_proxy.store.approvals.approval_mirror import ApprovalMirror, Settled, as_message, from_message
from cloned_proxy.store.files.errors import StoreError

_log = structlog.get_logger(__name__)

_LOOK_SECONDS: Final = 0.5
_READ_SECONDS: Final = 10.0
_SOON_SECONDS: Final = 0.02
_MOST_SAID: Final = 10
_RECEIVED_AT_ONCE: Final = 100
_RECEIVED_A_MINUTE: Final = 10
"""Requests of other replicas: people look at a few, and each one is in the log of every replica."""
_IN_A_TURN: Final = 20
"""What is taken in before traffic has its turn: anybody may fill the store, and a signature takes a while to check."""


class FleetRequests:
    """One for each process of a replica, on its event loop; one of several workers `leads`, and writes."""

    def __init__(
        self,
        link: Link,
        fleet: str,
        replica: str,
        *,
        trust: Trust,
        mirror: ApprovalMirror,
        on_change: Callable[[tuple[Rule, ...]], None],
        on_decision: Callable[[FleetDecision], None] = lambda _decision: None,
        clock: Callable[[], float],
        uptime: Callable[[], float],
        leads: bool = True,
    ) -> None:
        """`on_change` is told the granted rules each time they are others."""
        self._link = link
        self._fleet, self._me = fleet, replica
        self._names = RequestNames(fleet)
        self._mirror = mirror
        self._on_decision = on_decision
        self._clock, self._uptime = clock, uptime
        self._leads = leads
        self._posted: set[str] = set()
        self._there: set[str] = set()
        """What the store told of in the last reading."""
        self._compared = False
        """Whether what is shown here has been compared with that."""
        self._decided = Remembered()
        self._refused = Remembered()
        self._decisions = DecisionReader(trust, fleet)
        self._said = 0
        """Refusals that were logged in one reading."""
        self._unsettled: dict[str, FleetDecision] = {}
        """In force or refused already, and not on record here: the disk did not take them."""
        self.in_force = ApprovalsInForce(on_change, clock=clock, uptime=uptime)
        self._room = Allowance(_RECEIVED_AT_ONCE, _RECEIVED_A_MINUTE)
        self._news = asyncio.Event()
        self._reading = asyncio.Lock()
        self._pause = Pause()
        """News that comes without end costs a small part of the time, too."""
        link.follow(self._names.news, lambda _message: self._news.set())
        link.at_connect(self.connected)

    async def connected(self) -> None:
        """Another server may be there than before: what was told is told again. Raises StoreAwayError."""
        self._posted.clear()
        await self.read()

    async def run(self) -> None:
        """Tells and reads, until cancelled."""
        read_at = self._uptime()
        while True:
            try:
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._news.wait()
            except TimeoutError:
                pass
            news = self._news.is_set()
            self._news.clear()
            self.in_force.end_what_is_over()
            if not self._link.connected:
                continue
            try:
                if self._leads:
                    await self.tell()
                if news and self._pause.lasts:
                    self._news.set()
                    await asyncio.sleep(_SOON_SECONDS)
                elif not self._pause.lasts and (news or self._uptime() >= read_at + _READ_SECONDS):
                    read_at, began = self._uptime(), self._pause.now()
                    await self.read()
                    self._pause.after(began)
            except StoreAwayError:
                # The link tells the log. It reads again where it breaks; one call that failed does not break it.
                await self._again(news=news)
            except Exception:  # noqa: BLE001  one fault must not end the following
                _log.exception("requests of the fleet cannot be followed; tried again")
                await self._again(news=news)

    async def _again(self, *, news: bool) -> None:
        """What was told and could not be read is not lost."""
        if news:
            self._news.set()
        await asyncio.sleep(again_seconds())

    async def tell(self) -> None:
        """Tells the fleet of the requests that were made here. Raises StoreAwayError and StoreError."""
        unposted = ""
        own = await asyncio.to_thread(self._mirror.own_pending)
        there = sum(approval.id in self._posted for approval, _ in own)
        for approval, seconds in own:
            if approval.id in self._posted:
                continue
            if why := await self._post(approval, seconds, there):
                unposted = unposted or f"request {approval.id} of {approval.asker} is seen on this replica alone: {why}"
            else:
                there += 1
        self._link.parts.say("requests", unposted, about="unposted")

    async def _post(self, approval: Approval, seconds: float, there: int) -> str:
        """Why it cannot be; "" when it is in the store, where so many of this replica wait. Raises StoreAwayError."""
        names, text = self._names, json.dumps(as_message(approval, self._me))
        if len(text) > MOST_BYTES:
            return "it is too large"
        waits = int(min(seconds, LONGEST_SECONDS) * 1000)
        bounds = (str(MOST), str(LONGEST_MILLISECONDS), str(there))
        told = (approval.id, text, str(waits), names.news, *bounds)
        with self._link.parts.part("requests", names.ends):
            if not await self._link.run(lambda redis: redis.eval(ASK, 3, *names.keys, *told)):
                return f"{names.requests} has {MOST} already, and about as many of this replica as of any other"
        self._posted.add(approval.id)
        return ""

    async def read(self) -> None:
        """Takes in what the store has. Raises StoreAwayError."""
        async with self._reading:
            up, names = self._uptime(), self._names

            async def work(redis: Any) -> list[Any]:
                answer: list[Any] = await redis.eval(READ, 3, *names.keys, *READ_BOUNDS)
                return answer

            with self._link.parts.part("requests", names.requests):
                now, without, *found = await self._link.run(work, most=MOST_ANSWERED)
            why = f"requests or decisions that are too large are left out ({names.requests})" if without else ""
            self._link.parts.say("requests", why, about="unread")
            if len(found) % 4:
                raise ValueError("the store answers what no reading of requests does")
            offered = Offered(found)
            self._link.parts.say("requests", offered.why_full(names.requests), about="full")
            # What made room for others is told again.
            self._posted &= offered.ids
            if self._leads and not without:
                await self._forget_others(offered.ids)
            self._said = 0
            for number, (raw_id, raw, left, envelope) in enumerate(offered.in_turns()):
                if number % _IN_A_TURN == 0:
                    await asyncio.sleep(0)
                try:
                    await self._take_in(_id_of(raw_id), raw, envelope, left / 1000, now=now / 1000, up=up)
                except Exception as error:  # noqa: BLE001  what one request broke must not keep the next from people
                    self._refuse(raw_id, error)
            self.in_force.tell()
            await self._settle()

    async def _forget_others(self, there: set[str]) -> None:
        """Shows no more what others have taken back. Writes only where something has gone since the last reading."""
        gone, self._there = self._there - there, there
        if not gone and self._compared:
            return
        try:
            await asyncio.to_thread(self._mirror.keep_others, there)
        except StoreError as error:  # the disk: what people decide goes first, and it is tried again
            _log.warning("what others no longer ask is still shown here", reason=str(error))
            self._compared = False
        else:
            self._compared = True

    async def _take_in(self, request: str, raw: bytes, envelope: bytes, left: float, *, now: float, up: float) -> None:
        if request in self._decided or (not envelope and left <= 0):
            return
        if not envelope:
            told = json.loads(raw)
            if self._leads and isinstance(told, dict) and told.get("replica") != self._me:
                await self._receive(from_message(told, request), left)
            return
        decision = self._decisions.read(envelope, request)
        approved = decision.verdict == "approved"
        if approved and decision.decided > self._clock() + SKEW_SECONDS:
            # The decision is looked at again: the clock here may be set meanwhile.
            raise ValueError("it was decided in the future: by a wrong time, or the clock here is slow")
        # Before anything that may fail: whoever offers it again does not make it last longer.
        self._decided.add(request)
        if approved:
            self.in_force.put(decision, now=now, up=up)
        if self._leads:
            self._unsettled[request] = decision
        self._on_decision(decision)

    async def _receive(self, approval: Approval, left: float) -> None:
        """Shows it to people, within a rate: each one is two entries of the log, and anybody may fill the store."""
        if not self._room.has_any(self._uptime()):
            return  # it is offered again
        left = min(left, LONGEST_SECONDS)
        if await asyncio.to_thread(self._mirror.receive, approval, left) and not self._room.take(self._uptime()):
            _log.warning(
                "so many requests of other replicas come that they are shown by and by",
                a_minute=_RECEIVED_A_MINUTE,
            )

    async def _settle(self) -> None:
        """Writes down here what became of requests. What cannot be written is tried again."""
        for request, decision in list(self._unsettled.items()):
            rules = decision.rules() if decision.verdict == "approved" else ()
            settled = Settled(
                decision.verdict,
                f"{decision.by}@{decision.replica}",
                self._clock(),
                decision.reason,
                tuple(rule.id for rule in rules),
            )
            try:
                own = await asyncio.to_thread(self._mirror.settle, decision.about, settled)
            except StoreError as error:
                _log.warning("a decision of the fleet is not on record here yet", request=request, reason=str(error))
                return
            del self._unsettled[request]
            if own in self._posted and own != request:
                await self._withdraw(own)

    async def _withdraw(self, own: str) -> None:
        """Takes back what was asked here, since an equal request of another replica is decided."""
        requests, _, ends = self._names.keys

        async def work(redis: Any) -> None:
            await redis.hdel(requests, own)
            await redis.zrem(ends, own)

        await self._link.run(work)

    def _refuse(self, request: object, error: Exception) -> None:
        """Once for each request, since it is read again; and a few at once, since anybody may fill the store."""
        known = repr(request)[:LONGEST_ID]
        if known not in self._refused and self._said < _MOST_SAID:
            self._said += 1
            self._refused.add(known)
            _log.warning(
                "what the store says of a request is refused", request=known, reason=f"{type(error).__name__}: {error}"
            )


def _id_of(raw: bytes) -> str:
    if len(raw) > LONGEST_ID:
        raise ValueError("an id that nobody gives")
    return raw.decode("ascii")
