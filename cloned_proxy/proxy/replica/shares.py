"""Limits over all replicas of a fleet: this one's share of each, taken and given back beside traffic.

A request looks at the share alone, which is a smaller limit (`Budgets` counts as ever), so nothing waits for the store
but a request whose tool has no share yet, or has used it up while the fleet may have more. Shares are kept in cells: of
several workers the first one asks the store, and all of them look.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final, Protocol

import structlog

from cloned_proxy.fleet.link.link import Link
from cloned_proxy.fleet.shares.share import Part
from cloned_proxy.fleet.shares.share_answer import read_answer
from cloned_proxy.fleet.shares.share_loss import ShareLoss
from cloned_proxy.fleet.shares.share_names import ShareNames
from cloned_proxy.fleet.shares.share_script import CUT_AFTER_SECONDS, SETTLE_MILLISECONDS, SHARE
from cloned_proxy.fleet.signed.errors import StoreAwayError
from cloned_proxy.policy.model.model import NO_LIMITS, Limits
from cloned_proxy.proxy.enforce.question import PolicySource
from cloned_proxy.proxy.grants.budget import WholeLimits
from cloned_proxy.proxy.grants.cells import CellStore
from cloned_proxy.proxy.replica.share_cells import ENDS, WANTED, WIDTH, Share, smaller
from cloned_proxy.store.leases.deadline import uptime

_log = structlog.get_logger(__name__)

_TICK_SECONDS: Final = 0.25
_MOST_WAIT: Final = 2.0
_TRIES: Final = 3
_HUNGRY_SECONDS: Final = 0.05
_BEG_SECONDS: Final = 0.02
_DRY_SECONDS: Final = 0.25
"""For so long after the store had no more, no further request waits for it."""
_LASTS: Final = {"local_share": 900.0, "deny": 5.0}
"""Seconds that a share can be used without a word of the store, by `fleet.on_store_loss`."""
_REST_SECONDS: Final = 60.0
"""Shares that last longer are renewed while they rest, too: the store may be away when they are needed."""
_MENDED_SECONDS: Final = 5.0
"""Between two looks at a share that could not be used for what lies in the store."""
_CLOCKS_DRIFT: Final = 0.99
"""A second here is a second there, but for what quartz makes of it."""


class ShareObserver(Protocol):
    """`telemetry.share_metrics`."""

    def asked(self, result: str) -> None: ...

    def share(self, tool: str, parts: tuple[int, ...]) -> None: ...


class Shares(WholeLimits):
    """One for each process."""

    def __init__(
        self,
        link: Link,
        fleet: str,
        replica: str,
        *,
        process: str,
        on_store_loss: str,
        policies: PolicySource,
        store: CellStore,
        metrics: ShareObserver,
        leads: bool = True,
        alone: bool = True,
        settle: int = SETTLE_MILLISECONDS,
        clock: Callable[[], float] = uptime,
    ) -> None:
        """`process` names the run of this proxy: another one under the same replica's name has taken its place."""
        self._link = link
        self._names = ShareNames(fleet)
        self._me, self._process = replica, process
        self.lasts: Final = _LASTS[on_store_loss]
        self._policies = policies
        self._store = store
        self._metrics = metrics
        self._leads, self._alone = leads, alone
        self._looked_at: object = None
        self._settle = settle
        self._clock = clock
        self._shares: dict[str, Share] = {}
        self._loss = ShareLoss(link, self._names, on_loss=self._tell_all, clock=clock)
        link.follow(self._names.hungry, self._hungry)
        link.at_connect(self._connected)

    # What a request asks.

    def limits_of(self, tool: str | None, limits: Limits) -> Limits:
        """The limits with this replica's share in place of what the policy says for the whole fleet."""
        shared = self._shared(tool)
        if shared is NO_LIMITS or tool is None:
            return limits
        share = self._share(tool)
        parts = share.parts if self._clock() < share.ends else (0, 0, 0)
        known = share.known
        if known is None or known[0] != limits or known[1] != parts:
            known = share.known = (limits, parts, smaller(limits, shared, parts))
        return known[2]

    def are_of(self, tool: str | None) -> bool:
        return self._shared(tool) is not NO_LIMITS

    def may_grow(self, tool: str | None) -> bool:
        """Whether a refusal by the share is worth a question to the store."""
        if tool is None or self._shared(tool) is NO_LIMITS:
            return False
        return self._link.connected and self._clock() >= self._share(tool).dry_until

    async def more(self, tool: str | None) -> None:
        """Asks for a larger share, and returns when there is an answer, or none within two seconds."""
        if tool is None:
            return
        share = self._share(tool)
        if not self._leads:
            await self._beg(share)
            return
        if share.asking is None or share.asking.done():
            share.asking = asyncio.create_task(self._ask(tool, share, miss=True))
        await asyncio.shield(share.asking)

    def has_lost(self, tool: str | None) -> bool:
        """Whether open flows of the tool must end: others may have the places by now that they take."""
        if tool is None or self._shared(tool).concurrent is None:
            return False
        share = self._share(tool)
        return self._clock() >= share.ends + CUT_AFTER_SECONDS * _CLOCKS_DRIFT and share.ends > 0

    def _shared(self, tool: str | None) -> Limits:
        """The limits that the policy has for the tool; NO_LIMITS, that very value, where none of them is shared."""
        current = self._policies.current
        limits = NO_LIMITS if current is None or tool is None else current.scope_of(tool).limits
        if limits.requests_per_minute is None and limits.bytes_per_hour is None and limits.concurrent is None:
            return NO_LIMITS
        return limits

    def _whole(self, tool: str) -> tuple[int | None, ...]:
        """The limits of the fleet's policy: what there is to share, though a local policy lets less pass here."""
        current = self._policies.current
        own = self._shared(tool)
        limits = own if current is None else current.limits_before.get(tool, own)
        return limits.requests_per_minute, limits.bytes_per_hour, limits.concurrent

    def _share(self, tool: str) -> Share:
        # Bounded, as the accounts of `Budgets` are: only a tool with limits of the policy has one.
        share = self._shares.get(tool)
        if share is None:
            share = self._shares[tool] = Share(self._store.open(f"share {tool}", WIDTH))
        return share

    # Beside traffic.

    async def run(self) -> None:
        """Enlarges, renews and shrinks the shares in use, until cancelled."""
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            if not self._leads:
                continue
            await self._loss.look()
            self._look_for_beggars()
            for tool, share in list(self._shares.items()):
                if self._is_due(tool, share) and (share.asking is None or share.asking.done()):
                    share.asking = asyncio.create_task(self._ask(tool, share, miss=self._is_wanted(share)))

    async def close(self) -> None:
        """Gives back what was not used; at a stop, when nothing is served any more."""
        for tool, share in self._shares.items() if self._leads else ():
            if share.ends and self._link.connected:
                with contextlib.suppress(StoreAwayError):
                    await self._exchange(tool, share, gives=True, leaves=True)

    async def _connected(self) -> None:
        self._tell_all()

    def _tell_all(self) -> None:
        """Has each share said to the store: another server may be there, or it has lost what it knew."""
        for share in self._shares.values():
            share.told = not share.ends

    def _look_for_beggars(self) -> None:
        """Opens the shares of tools whose requests wait in other workers: this one may not have seen the tool yet."""
        current = self._policies.current
        if self._alone or current is None or current is self._looked_at:
            return
        self._looked_at = current
        for tool in current.tools:
            if self.are_of(tool):
                self._share(tool)

    def _is_wanted(self, share: Share) -> bool:
        wanted = max(share.cells.column(WANTED))
        return wanted / 1e6 > share.asked

    def _is_due(self, tool: str, share: Share) -> bool:
        now = self._clock()
        if self._is_wanted(share):
            return True
        if self._link.connected and self._link.parts.is_bad("limits", self._names.shares(tool)):
            return now >= share.asked + _MENDED_SECONDS  # nobody else says that somebody has mended it
        if not share.ends or not self._link.connected:
            return False
        if not share.told and now >= share.dry_until:
            return True
        if now >= share.asked + self.lasts / 3 and (self.lasts > _REST_SECONDS or self._in_use(tool)):
            return True
        return now >= share.dry_until and any(part.short for part in self._parts(tool, share))

    def _in_use(self, tool: str) -> bool:
        usage = self.counts(tool, self._shared(tool))
        return usage.concurrent > 0 or usage.requests_last_minute > 0

    def _parts(self, tool: str, share: Share) -> tuple[Part, ...]:
        limits = self._shared(tool)
        usage = self.counts(tool, limits)
        held = share.parts if self._clock() < share.ends else (0, 0, 0)
        return (
            Part(limits.requests_per_minute, usage.requests_last_minute, held[0]),
            Part(limits.bytes_per_hour, usage.bytes_last_hour, held[1]),
            Part(limits.concurrent, usage.concurrent, held[2]),
        )

    def _hungry(self, message: bytes) -> None:
        tool = message.decode(errors="replace")
        share = self._shares.get(tool)
        if share is None or not self._leads or (share.asking is not None and not share.asking.done()):
            return
        if any(part.limit is not None and part.held > part.used for part in self._parts(tool, share)):
            share.asking = asyncio.create_task(self._ask(tool, share, gives=True))

    async def _ask(self, tool: str, share: Share, *, miss: bool = False, gives: bool = False) -> None:
        before = share.parts
        try:
            await self._exchange(tool, share, waits=miss, gives=gives)
            for _ in range(_TRIES if miss else 0):
                if share.grew(before) or share.sharers == 1:
                    break
                await asyncio.sleep(_HUNGRY_SECONDS)  # in which the others give back what they can spare
                await self._exchange(tool, share, waits=True)
        except StoreAwayError:
            share.dry_until = self._clock() + _DRY_SECONDS
            self._metrics.asked("store_away")
            return
        except Exception:  # noqa: BLE001  the next one follows; without an answer nothing is enlarged
            _log.exception("a share of a limit could not be asked for", tool=tool)
            share.dry_until = self._clock() + 1.0
            return
        grown = share.grew(before)
        self._metrics.asked("more" if grown else "none" if miss else "same")
        self._metrics.share(tool, share.parts)
        if not grown:
            share.dry_until = self._clock() + _DRY_SECONDS

    async def _exchange(
        self, tool: str, share: Share, *, waits: bool = False, gives: bool = False, leaves: bool = False
    ) -> None:
        began = share.asked = self._clock()
        parts = self._parts(tool, share)
        kept = [min(part.used, part.held) if leaves else part.kept(share.sharers, gives=gives) for part in parts]
        # Before it is said: what is given back must not be used any more when others get it.
        share.hold(kept)
        numbers: list[int] = []
        whole = self._whole(tool)
        for part, now, keeps, there in zip(parts, self._parts(tool, share), kept, whole, strict=True):
            wanted = keeps if gives else part.wanted(share.sharers)
            # Another worker may have used some of it at the last moment.
            numbers += (
                -1 if part.limit is None else part.limit if there is None else there,
                now.used,
                min(max(keeps, now.used), part.held),
                wanted,
            )
        lasts = int(self.lasts * 1000)
        keys = (self._names.shares(tool), self._names.server)
        whose = (self._me, self._process, lasts, self._settle, self._names.hungry, tool, int(waits))
        told = (*whose, *self._loss.told(), *numbers)

        async def work(redis: Any) -> list[Any]:
            answer: list[Any] = await redis.eval(SHARE, len(keys), *keys, *told)
            return answer

        share.told = True  # and no more, where a loss is noticed while this is under way
        try:
            with self._link.parts.part("limits", keys[0]):
                granted, found, data = read_answer(await self._link.run(work, within=_MOST_WAIT))
            self._loss.learn(data)
        except StoreAwayError:
            share.told = False
            raise
        share.hold(granted)
        share.cells.values[ENDS] = int((began + self.lasts * _CLOCKS_DRIFT) * 1e6)
        share.sharers = max(1, found)

    async def _beg(self, share: Share) -> None:
        """Leaves word for the worker that asks, and waits until the share has changed."""
        values, before, ends = share.cells.values, share.parts, self._clock() + _MOST_WAIT
        values[share.cells.own * share.cells.width + WANTED] = int(self._clock() * 1e6)
        while share.parts == before and self._clock() < ends:  # noqa: ASYNC110  memory of several processes
            await asyncio.sleep(_BEG_SECONDS)
        if share.parts == before:
            share.dry_until = self._clock() + _DRY_SECONDS
