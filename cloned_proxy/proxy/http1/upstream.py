"""Connections to upstreams, kept for the next request of the same caller under the same rule."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Callable
from typing import Final, Protocol, cast

import structlog

from cloned_proxy.policy.callers.caller import Principal
from cloned_proxy.policy.terms.decision import Decision
from cloned_proxy.policy.terms.rule import Address
from cloned_proxy.proxy.grants.grant import Grant
from cloned_proxy.proxy.transport.reset import reset
from cloned_proxy.proxy.wire.fields import ProxyHop

_log = structlog.get_logger(__name__)

IDLE_SECONDS: Final = 15.0
"""How long an unused connection is kept. Shorter than servers keep theirs, so that few are found stale."""
JUST_USED_SECONDS: Final = 0.5
"""How long a request that may not be sent twice may take a kept connection: no server closes one so soon, and what a
server has closed by then, its FIN on the way, would be lost with the request (RFC 9112, section 9.3.1)."""
MAX_IDLE: Final = 1024
MAX_IDLE_EACH: Final = 64
"""Most idle connections of one key: one tool's burst must not push everybody else's out."""

type Key = tuple[Principal, str, str, int]
"""Caller, rule id, host and port. The checked address is compared besides, because a name has several."""


class Conversation(Protocol):
    """What an upstream connection tells the exchange that has it."""

    def response_bytes(self, data: bytes) -> None: ...

    def upstream_ended(self, *, broken: bool) -> None:
        """FIN or, with `broken`, a reset: nothing comes any more."""

    def upstream_drained(self) -> None:
        """The upstream takes bytes again."""


class PlainUpstream(asyncio.Protocol):
    """One connection: idle in the pool, or with one exchange at a time."""

    __slots__ = ("_pool", "address", "conversation", "ended", "full", "grant", "hop", "idle_since", "reused",
                 "transport")  # fmt: skip

    def __init__(self, pool: PlainPool, grant: Grant, conversation: Conversation, hop: ProxyHop | None = None) -> None:
        self.transport: asyncio.Transport
        self.address: Address | None = None
        """The peer's; None until it is connected, and for one that had closed by then."""
        self.hop = hop
        """What stands at the other end, where that is the proxy in front and not the server."""
        self.grant = grant
        """The last one it was used with: the pool asks whether that still passes."""
        self.conversation: Conversation | None = conversation
        self.full = False
        self.ended = False
        """FIN, reset, or given up: of no further use."""
        self.reused = False
        self.idle_since = 0.0
        self._pool = pool

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        if peer is None:
            # A peer that resets at once has no name any more: the dial has failed.
            self.ended = True
            self.transport.abort()
            return
        self.address = ipaddress.ip_address(peer[0])

    def data_received(self, data: bytes) -> None:
        conversation = self.conversation
        if conversation is None:
            # A response that nobody asked for: whoever got this connection next would take it for theirs.
            self.give_up()
            return
        conversation.response_bytes(data)

    def eof_received(self) -> bool:
        self._end(broken=False)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(broken=exc is not None)

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False
        if self.conversation is not None:
            self.conversation.upstream_drained()

    def give_up(self) -> None:
        """Resets the connection; nobody is told."""
        self.ended = True
        self.conversation = None
        self._pool.discard(self)
        reset(self.transport)

    def retire(self) -> None:
        """Closes the connection behind a complete response."""
        self.ended = True
        self.conversation = None
        self.transport.close()

    def hand_over(self, protocol: asyncio.Protocol) -> None:
        """Gives the connection to another protocol, for good."""
        self.ended = True
        self.conversation = None
        self.transport.set_protocol(protocol)
        protocol.connection_made(self.transport)

    def _end(self, *, broken: bool) -> None:
        if self.ended:
            return
        self.ended = True
        self._pool.discard(self)
        conversation, self.conversation = self.conversation, None
        if conversation is not None:
            conversation.upstream_ended(broken=broken)


class Rejoined(PlainUpstream):
    """One that has carried a part of an exchange elsewhere."""

    __slots__ = ("_then",)

    def __init__(
        self, pool: PlainPool, grant: Grant, conversation: Conversation, then: Callable[[PlainUpstream], None]
    ) -> None:
        super().__init__(pool, grant, conversation)
        self._then: Final = then

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        conversation = self.conversation
        if conversation is None:
            return
        if self.ended:
            conversation.upstream_ended(broken=True)
        else:
            self._then(self)


class PlainPool:
    """Idle connections by key; the last one used is the first one taken, so that the surplus ages out."""

    def __init__(self, review: Callable[[Grant], Decision], clock: Callable[[], float] = time.monotonic) -> None:
        self._review: Final = review
        self._clock: Final = clock
        # Dictionaries as ordered sets: oldest first.
        self._idle: dict[Key, dict[PlainUpstream, None]] = {}
        self._all: dict[PlainUpstream, None] = {}

    def __len__(self) -> int:
        return len(self._all)

    def take(self, grant: Grant, *, repeatable: bool, chained: bool = False) -> PlainUpstream | None:
        """A connection that this grant permits to use; one just used for a request that is not `repeatable`.

        `chained`: one to the proxy in front. Those of one caller, rule and target are never another's, either.
        """
        candidates = self._idle.get(key_of(grant))
        if candidates is None:
            return None
        oldest = self._clock() - (IDLE_SECONDS if repeatable else JUST_USED_SECONDS)
        for upstream in reversed(candidates):
            if upstream.idle_since > oldest and _leads_to(upstream, grant, chained=chained):
                self.discard(upstream)
                upstream.grant = grant
                upstream.reused = True
                return upstream
        return None

    def put(self, upstream: PlainUpstream) -> None:
        """Keeps a connection on which nothing is under way."""
        upstream.conversation = None
        upstream.idle_since = self._clock()
        siblings = self._idle.setdefault(key_of(upstream.grant), {})
        if len(siblings) >= MAX_IDLE_EACH:
            next(iter(siblings)).give_up()
            siblings = self._idle.setdefault(key_of(upstream.grant), {})
        elif len(self._all) >= MAX_IDLE:
            next(iter(self._all)).give_up()
            siblings = self._idle.setdefault(key_of(upstream.grant), {})
        siblings[upstream] = None
        self._all[upstream] = None

    def discard(self, upstream: PlainUpstream) -> None:
        """Forgets the connection, which stays open."""
        if upstream not in self._all:
            return
        del self._all[upstream]
        key = key_of(upstream.grant)
        siblings = self._idle[key]
        del siblings[upstream]
        if not siblings:
            del self._idle[key]

    def sweep(self) -> None:
        """Closes what has been idle for too long, or would not be granted again."""
        oldest = self._clock() - IDLE_SECONDS
        for upstream in tuple(self._all):
            if upstream.idle_since <= oldest or not self._passes(upstream.grant):
                upstream.give_up()

    def close(self) -> None:
        for upstream in tuple(self._all):
            upstream.give_up()

    def _passes(self, grant: Grant) -> bool:
        try:
            return self._review(grant).passes
        except Exception:  # noqa: BLE001  logged; whatever it was, a connection that nobody can vouch for goes
            _log.exception("a pooled connection could not be reviewed and is closed")
            return False


def _leads_to(upstream: PlainUpstream, grant: Grant, *, chained: bool) -> bool:
    return upstream.hop is not None if chained else upstream.hop is None and upstream.address in grant.addresses


def key_of(grant: Grant) -> Key:
    """Whose further requests a connection of this one may carry."""
    decision = grant.decision
    rule = decision.rule.id if decision.rule is not None else ""
    host = decision.host.text if decision.host is not None else ""
    return (grant.caller, rule, host, decision.request.port)
