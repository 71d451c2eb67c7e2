"""What the plane may grant by itself: grants of ours that depend on nothing but who asks for what.

A verdict is taken back as soon as anything changes that a decision looks at (`question.Basis`), or the way to the
upstream (`ways.KnownWay`), and lives no longer than what it was made of: the addresses, the credential, the rule. So
each one equals what would be decided anew.
"""

from __future__ import annotations

import ctypes
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from cloned_proxy.policy.callers.identity import TokenVerifier, credentials_expire
from cloned_proxy.policy.deciding.decide import needs_hello
from cloned_proxy.policy.model.model import Policy
from cloned_proxy.proxy.enforce.question import Basis
from cloned_proxy.proxy.enforce.tunnels import response_seconds
from cloned_proxy.proxy.grants.budget import ACCOUNT_WIDTH, account_name
from cloned_proxy.proxy.grants.fair_share import fair_limits
from cloned_proxy.proxy.grants.grant import Grant
from cloned_proxy.proxy.http1.upstream import Key
from cloned_proxy.proxy.http1.upstream import key_of as pool_key_of
from cloned_proxy.proxy.plane.cells import PlaneCells
from cloned_proxy.proxy.plane.counted import Counted, counts_of, retire
from cloned_proxy.proxy.plane.entries import PlaneEntries
from cloned_proxy.proxy.plane.forms import content_of, event_of, key_of, plain_key_of, publishable
from cloned_proxy.proxy.plane.library import NO_LIMIT, Publication
from cloned_proxy.proxy.secrets.leak import LeakWatch
from cloned_proxy.proxy.upstream.ways import KnownWay, Ways
from cloned_proxy.proxy.wire.client_hello import ServerNames, Unread
from cloned_proxy.proxy.wire.head import Head
from cloned_proxy.telemetry.events import Kind

MOST: Final = 20_000
"""Verdicts at once, and numbers for those who share connections. At more, all verdicts are taken back; one in use comes
back with its next miss."""

_LONGEST: Final = 4096
"""Bytes of a key, which holds the credential as it was written: there is no end of ways to write one."""
_FOREVER: Final = 3600.0
"""Seconds that a verdict lasts which nothing else ends."""
_ONCE: Final = 2.0
"""Seconds that one lasts at most which was asked for for the first time: of most hosts of a cold cache that is the only
one, and their verdicts should not pile up."""


@dataclass(slots=True)
class Published(Counted):
    """A verdict that grants. In `Tunnels.sweep` it stands for its tunnels."""

    key: bytes
    grant: Grant

    @property
    def server_names(self) -> ServerNames | Unread:
        """What every tunnel of it has begun with, or has to."""
        decision = self.grant.decision
        if self.grant.kind is Kind.HTTP:
            return Unread.NEED_MORE
        if not needs_hello(decision) or decision.host is None:
            return Unread.NOT_TLS
        return () if decision.host.address is not None else (decision.host.text,)


class Verdicts:
    """Everything that is published, on the event loop. `plane` is the handle of the running plane."""

    def __init__(
        self,
        library: ctypes.CDLL,
        plane: int,
        *,
        basis: Basis,
        cells: PlaneCells,
        tokens: TokenVerifier,
        clock: Callable[[], float],
        entries: PlaneEntries,
        leaks: LeakWatch,
        response_timeout: float,
        ways: Ways,
        numbers: Iterator[int],
    ) -> None:
        """While `leaks` searches requests for secrets no plain one is granted without that.

        `numbers` are those of all verdicts of this plane.
        """
        self._library: Final = library
        self._plane: Final = plane
        self._basis: Final = basis
        self._strict: Final = basis.strict_durability
        self._cells: Final = cells
        self._tokens: Final = tokens
        self._clock: Final = clock
        self._entries: Final = entries
        self._ways: Final = ways
        self._by_key: dict[bytes, Published] = {}
        self._granted: Final[set[int]] = set()
        """Hashes of the keys that Python has granted since the set was cleared."""
        self.known: Final[dict[int, Published]] = {}
        self._numbers: Final = numbers
        self._leaks: Final = leaks
        self._response_timeout: Final = response_timeout
        self._pools: dict[Key, int] = {}
        self._next_pool = itertools.count(1)
        self._inputs = self._now()
        self._offset = clock() - time.monotonic()

    def publish(self, listener: int, head: Head, grant: Grant) -> bool:
        """Lets the plane grant the same again to whoever sends the same, if it may. Whether it will.

        That begins with the second grant: what Python serves anyway costs less without a verdict, and most hosts of a
        cold cache are asked for once.
        """
        key = plain_key_of(listener, head, grant) if grant.kind is Kind.HTTP else key_of(listener, head)
        return not self._is_first(key) and self._offer(key, head, grant, _FOREVER)

    def answer(self, listener: int, head: Head, grant: Grant) -> bool:
        """Lets the plane grant a CONNECT that waits there, if it may. Whether it will.

        `grant` is what Python would grant: `Enforcer.prospect`.
        """
        key = key_of(listener, head)
        if len(self._by_key) >= MOST // 2 and hash(key) not in self._granted:
            return False  # who asks for ever new hosts does not push out those of others; its second grant may
        return self._offer(key, head, grant, _ONCE if self._is_first(key) else _FOREVER)

    def _offer(self, key: bytes, head: Head, grant: Grant, most: float) -> bool:
        self.look()
        now = time.monotonic()
        host = grant.decision.host
        way = self._ways.known(grant) if self._is_for_the_plane(grant) else None
        if host is None or way is None:
            return False
        # Without addresses of its own it is a name that only the proxy in front looks up.
        looked_up = self._basis.resolver.lasts(host) if grant.addresses else _FOREVER
        seconds = min(most, looked_up, way.seconds, self._lasts(head, grant))
        before = self._by_key.get(key)
        if before is not None and before.live and now < before.expires:
            return True
        if seconds <= 0 or not 0 < len(key) <= _LONGEST:
            return False
        if len(self._by_key) >= MOST or len(self._pools) >= MOST:
            self.forget()
        elif before is not None:
            self._withdraw(before)
        return self._publish(key, grant, way, now + seconds)

    def _is_first(self, key: bytes) -> bool:
        """Whether this was not granted before, as far as is known: what is taken back stays known."""
        number = hash(key)
        if number in self._granted:
            return False
        if len(self._granted) >= MOST:
            self._granted.clear()
        self._granted.add(number)
        return True

    def _is_for_the_plane(self, grant: Grant) -> bool:
        if self._strict or self._inputs[0] is not grant.policy or not publishable(grant):
            return False
        if self._basis.budgets.shares.are_of(grant.caller.tool):  # smaller and larger from moment to moment
            return False
        if grant.kind is not Kind.HTTP:
            return True
        return not self._leaks.armed and not self._ways.chained(grant)

    def _lasts(self, head: Head, grant: Grant) -> float:
        """Seconds until the rule or a credential is over by the wall clock."""
        now = self._clock()
        ends = credentials_expire(head.fields, tokens=self._tokens, now=now)
        rule = grant.decision.rule
        if rule is not None and rule.expires is not None:
            ends = min(ends, rule.expires)
        return ends - now

    def _publish(self, key: bytes, grant: Grant, way: KnownWay, expires: float) -> bool:
        number = next(self._numbers)
        event = event_of(grant)
        self._entries.know(number, event)
        limits = fair_limits(grant.policy.scope_of(grant.caller.tool).limits, self._basis.flows_per_tool)
        host = grant.decision.host
        content = content_of(grant, way, event).encode("ascii")
        what = Publication(
            number=number,
            needs_hello=needs_hello(grant.decision),
            literal=host is not None and host.address is not None,
            plain=grant.kind is Kind.HTTP,
            pool=self._pool_of(grant),
            response_timeout=int(response_seconds(grant.decision, self._response_timeout) * 1e6),
            expires=int(expires * 1e6),
            account=self._cells.address(account_name(grant.caller.tool), ACCOUNT_WIDTH),
            concurrent=limit_of(limits.concurrent),
            requests_per_minute=limit_of(limits.requests_per_minute),
            bytes_per_hour=limit_of(limits.bytes_per_hour),
        )
        handle = self._library.plane_publish(self._plane, key, len(key), ctypes.byref(what), content, len(content))
        if handle is None:
            return False
        published = Published(number, event, expires, handle, key, grant)
        self._by_key[key] = self.known[number] = published
        return True

    def _pool_of(self, grant: Grant) -> int:
        """The number that stands for whose requests share connections to upstreams."""
        key = pool_key_of(grant)
        number = self._pools.get(key)
        if number is None:
            number = self._pools[key] = next(self._next_pool)
        return number

    def look(self) -> None:
        """Takes everything back if anything changed that a decision or a name hangs on, or the wall clock was set."""
        inputs, offset = self._now(), self._clock() - time.monotonic()
        if inputs != self._inputs or abs(offset - self._offset) > 1:
            self.forget()
        self._inputs, self._offset = inputs, offset

    def _now(self) -> tuple[Policy | None, object]:
        policy, *more = self._basis.now()
        return policy, (more, self._tokens.generation, self._ways.front_now(), self._leaks.armed)

    def forget(self) -> None:
        """At the return nothing that was published is granted any more."""
        for published in self._by_key.values():
            self._library.verdict_withdraw(published.handle)
            published.live = False
        self._by_key.clear()
        self._pools.clear()
        self._library.plane_forget(self._plane)

    def _withdraw(self, published: Published) -> None:
        self._library.verdict_withdraw(published.handle)
        published.live = False
        del self._by_key[published.key]

    def counts(self, published: Published) -> tuple[list[int], str]:
        """As `counts_of`."""
        return counts_of(self._library, published)

    def retire(self) -> list[int]:
        """Frees what is over and has nothing open; returns the numbers."""
        now = time.monotonic()
        ended = [each for each in self.known.values() if each.live and now >= each.expires]
        return retire(self._library, self.known, ended, self._withdraw)


def limit_of(value: int | None) -> int:
    """As the plane has it. What is more than it can count limits nothing; ctypes would make a small number of it."""
    return NO_LIMIT if value is None else min(value, NO_LIMIT)
