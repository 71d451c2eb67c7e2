"""Names to addresses, once for each decision: cached, single-flight, bounded, with a deadline.

Look-ups run `getaddrinfo` on threads of their own: the default executor has a handful, and six slow names in it would
stall everybody.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from cloned_proxy.policy.terms.rule import Host
from cloned_proxy.proxy.upstream.lookup import Addresses, look_up
from cloned_proxy.store.settings.config import ProxySettings

_NEGATIVE_SECONDS: Final = 2.0
"""How long a failure is remembered: enough to stop a storm, too short to notice when the name appears."""


class ResolveError(Exception):
    """The name did not resolve. `timed_out` tells 504 from 502."""

    def __init__(self, message: str, *, timed_out: bool = False) -> None:
        super().__init__(message)
        self.timed_out = timed_out


type Lookup = Callable[[str], Addresses]
"""Blocking; a canonical name without trailing dot. Raises OSError."""


@dataclass(frozen=True, slots=True)
class _Addresses:
    addresses: Addresses
    """Empty for a name that did not resolve."""
    expires: float


class _Flight:
    """One look-up under way and how many callers still wait for it."""

    __slots__ = ("answer", "job", "waiting")

    def __init__(self, job: Future[Addresses]) -> None:
        self.job = job
        self.answer = asyncio.wrap_future(job)
        # A failure that nobody waited for any more is no news.
        self.answer.add_done_callback(lambda answer: answer.cancelled() or answer.exception())
        self.waiting = 0


class Resolver:
    """Called only after a decision allowed the name: a denied name never reaches DNS."""

    def __init__(
        self,
        settings: ProxySettings,
        *,
        lookup: Lookup | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._timeout: Final = settings.resolve_timeout
        self._keep: Final = settings.resolver_cache_seconds
        self._keep_failure: Final = min(settings.resolver_cache_seconds, _NEGATIVE_SECONDS)
        self._entries: Final = settings.resolver_cache_entries
        self._lookup: Final = lookup or look_up
        self._clock: Final = clock
        self._threads: Final = ThreadPoolExecutor(settings.resolver_threads, thread_name_prefix="resolver")
        self._cache: OrderedDict[str, _Addresses] = OrderedDict()
        self._flights: dict[str, _Flight] = {}
        self._share: Final = max(1, settings.resolver_threads // 2)
        self._turns: dict[str | None, asyncio.Semaphore] = {}
        """The look-ups that each tool may have on the threads. Tools are few, and no caller can make one up."""

    async def resolve(self, host: Host, tool: str | None = None) -> Addresses:
        """All addresses of the host, IPv6 and IPv4 in the order the system prefers; a literal is itself.

        `tool` is on whose behalf: one tool's dead names occupy at most half of the threads, so that they starve nobody.
        Raises ResolveError. Cancelling one caller does not cancel the look-up that others wait for.
        """
        if (known := self.known(host)) is not None:
            return known
        name = host.text
        answer = self._cache.get(name)
        if answer is not None and self._clock() < answer.expires:
            raise ResolveError("the name did not resolve")
        try:
            async with asyncio.timeout(self._timeout):
                addresses = await self._arrival(self._flights.get(name) or await self._departure(name, tool), name)
        except TimeoutError as error:
            raise ResolveError("the name did not resolve in time", timed_out=True) from error
        except OSError as error:
            raise ResolveError("the name did not resolve") from error
        if not addresses:
            raise ResolveError("the name has no address")
        return addresses

    async def _departure(self, name: str, tool: str | None) -> _Flight:
        """A look-up of the name, once one of the tool's turns is free."""
        turn = self._turns.setdefault(tool, asyncio.Semaphore(self._share))
        await turn.acquire()
        if (flight := self._flights.get(name)) is not None:  # somebody else's, begun meanwhile
            turn.release()
            return flight
        flight = self._take_off(name)
        # Until the thread is free again, which may be long after everybody has stopped to wait.
        flight.answer.add_done_callback(lambda _: turn.release())
        return flight

    async def _arrival(self, flight: _Flight, name: str) -> Addresses:
        flight.waiting += 1
        try:
            return await asyncio.shield(flight.answer)
        finally:
            flight.waiting -= 1
            # Nobody waits: a look-up that is still queued is taken out, so that a queue of dead ones cannot build up.
            if flight.waiting == 0 and flight.job.cancel() and self._flights.get(name) is flight:
                del self._flights[name]

    def known(self, host: Host) -> Addresses | None:
        """What `resolve` would return at once; None when it would have to wait, or raise."""
        if host.address is not None:
            return (host.address,)
        answer = self._cache.get(host.text)
        if answer is None or not answer.addresses or self._clock() >= answer.expires:
            return None
        self._cache.move_to_end(host.text)
        return answer.addresses

    def lasts(self, host: Host) -> float:
        """Seconds for which `known` will go on to answer as it does now; 0 when it does not."""
        if host.address is not None:
            return float("inf")
        answer = self._cache.get(host.text)
        return max(0.0, answer.expires - self._clock()) if answer is not None and answer.addresses else 0.0

    def forget(self) -> None:
        """Empties the cache; called at each change of the policy.

        A look-up that is under way still answers those who wait for it, but nobody else, and is not cached.
        """
        self._cache.clear()
        self._flights.clear()

    def close(self) -> None:
        """Drops what is queued and does not wait for the look-ups under way."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _take_off(self, name: str) -> _Flight:
        flight = self._flights[name] = _Flight(self._threads.submit(self._lookup, name))
        flight.answer.add_done_callback(lambda _: self._land(name, flight))
        return flight

    def _land(self, name: str, flight: _Flight) -> None:
        if self._flights.get(name) is not flight:  # forgotten meanwhile
            return
        del self._flights[name]
        if flight.answer.cancelled():
            return
        error = flight.answer.exception()
        addresses = flight.answer.result() if error is None else ()
        keep = self._keep if addresses else self._keep_failure
        if keep > 0:
            self._cache[name] = _Addresses(addresses, self._clock() + keep)
            self._cache.move_to_end(name)
            while len(self._cache) > self._entries:
                self._cache.popitem(last=False)
