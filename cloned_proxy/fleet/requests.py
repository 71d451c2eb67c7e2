"""The requests of all replicas on this one, and the decisions on them in force here.

What is told by the store is read whole at each connect, at each piece of news, and now and then: it is small. Approvals
that are in force go on while the store is away, and each ends when its time is over by the store's clock, which is
counted on here by the time since boot.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import structlog

from cloned_proxy.fleet.decision import FleetDecision, read_decision
from cloned_proxy.fleet.envelope import Trust
from cloned_proxy.fleet.errors import EnvelopeError, StoreAwayError
from cloned_proxy.fleet.link import Link
from cloned_proxy.fleet.request_store import ASK, MOST, READ, RequestNames
from cloned_proxy.policy.rule import Rule
from cloned_proxy.store.approval_mirror import ApprovalMirror, Settled, as_message, from_message
from cloned_proxy.store.errors import StoreError

_log = structlog.get_logger(__name__)

_LOOK_SECONDS: Final = 0.5
_READ_SECONDS: Final = 10.0
_MOST_BYTES: Final = 64 * 1024
_SKEW_SECONDS: Final = 2 * 3600.0
"""So far may a host's clock be off. An approval that ended longer ago than that is an old one that is offered again."""


@dataclass(frozen=True, slots=True)
class _InForce:
    decision: FleetDecision
    rules: tuple[Rule, ...]
    until: float
    """Uptime."""


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
        self._trust = trust
        self._mirror = mirror
        self._on_change = on_change
        self._on_decision = on_decision
        self._clock, self._uptime = clock, uptime
        self._leads = leads
        self._posted: set[str] = set()
        self._decided: set[str] = set()
        self._refused: set[str] = set()
        self._in_force: dict[str, _InForce] = {}
        self._news = asyncio.Event()
        self._reading = asyncio.Lock()
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
            self.end_what_is_over()
            if not self._link.connected:
                continue
            try:
                if self._leads:
                    await self.tell()
                if news or self._uptime() >= read_at + _READ_SECONDS:
                    read_at = self._uptime()
                    await self.read()
            except StoreAwayError:
                continue  # the link tells the log, and reads again when the store is back
            except Exception:  # noqa: BLE001  one fault must not end the following
                _log.exception("requests of the fleet cannot be followed; tried again")

    async def tell(self) -> None:
        """Tells the fleet of the requests that were made here. Raises StoreAwayError and StoreError."""
        names = self._names
        for approval, seconds in await asyncio.to_thread(self._mirror.own_pending):
            if approval.id in self._posted:
                continue
            text = json.dumps(as_message(approval, self._me))
            told = (approval.id, text, str(int(seconds * 1000)), names.news, str(MOST))
            if await self._link.run(lambda redis, told=told: redis.eval(ASK, 3, *names.keys, *told)):  # type: ignore[misc]
                self._posted.add(approval.id)

    async def read(self) -> None:
        """Takes in what the store has. Raises StoreAwayError."""
        async with self._reading:
            up, names = self._uptime(), self._names

            async def work(redis: Any) -> list[Any]:
                answer: list[Any] = await redis.eval(READ, 3, *names.keys)
                return answer

            now, *found = await self._link.run(work)
            before = self._rules()
            for at in range(0, len(found), 4):
                raw_id, raw, left, envelope = found[at : at + 4]
                try:
                    await self._take_in(raw_id.decode("ascii"), raw, envelope, left / 1000, now=now / 1000, up=up)
                except (ValueError, EnvelopeError) as error:
                    self._refuse(raw_id, error)
                except StoreError as error:
                    _log.warning("a request of the fleet is not on record here", reason=str(error))
            if self._rules() != before:
                self._on_change(self._rules())

    async def _take_in(self, request: str, raw: bytes, envelope: bytes, left: float, *, now: float, up: float) -> None:
        if request in self._decided or (not envelope and left <= 0):
            return
        if len(raw) > _MOST_BYTES or len(envelope) > _MOST_BYTES:
            raise ValueError("it is too large")
        if not envelope:
            told = json.loads(raw)
            if self._leads and isinstance(told, dict) and told.get("replica") != self._me:
                await asyncio.to_thread(self._mirror.receive, from_message(told, request), left)
            return
        decision = read_decision(envelope, self._trust, self._fleet, request)
        if decision.verdict == "approved":
            self._put_in_force(decision, now=now, up=up)
        if self._leads:
            await asyncio.to_thread(self._settle, raw, decision)
        self._decided.add(request)
        self._on_decision(decision)

    def _put_in_force(self, decision: FleetDecision, *, now: float, up: float) -> None:
        left = min(decision.ends - now, decision.ends - decision.decided)
        if left <= 0 or self._clock() > decision.ends + _SKEW_SECONDS:
            return
        # In the words of this machine's clock, which may be wrong: what is left is what counts.
        expires = self._clock() + left
        rules = tuple(replace(rule, expires=expires) for rule in decision.rules())
        self._in_force[decision.request] = _InForce(decision, rules, up + left)
        _log.info("an approval of the fleet is in force", request=decision.request, by=decision.by, seconds=int(left))

    def _settle(self, raw: bytes, decision: FleetDecision) -> None:
        rules = decision.rules() if decision.verdict == "approved" else ()
        settled = Settled(
            decision.verdict,
            f"{decision.by}@{decision.replica}",
            self._clock(),
            decision.reason,
            tuple(rule.id for rule in rules),
        )
        approval = from_message(json.loads(raw), decision.request)
        self._mirror.settle(approval, settled)

    def end_what_is_over(self) -> None:
        """Takes back the approvals whose time is over."""
        up = self._uptime()
        over = [request for request, each in self._in_force.items() if up >= each.until]
        for request in over:
            del self._in_force[request]
            _log.info("an approval of the fleet has ended", request=request)
        if over:
            self._on_change(self._rules())

    def _rules(self) -> tuple[Rule, ...]:
        return tuple(rule for each in self._in_force.values() for rule in each.rules)

    def _refuse(self, request: bytes, error: Exception) -> None:
        """Once for each request: what is refused stays in the store, and is read again."""
        known = request.decode("ascii", errors="replace")
        if known not in self._refused:
            self._refused.add(known)
            _log.warning("what the store says of a request is refused", request=known[:40], reason=str(error))
