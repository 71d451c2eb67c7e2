"""Where a name leads, and whether the decision at hand may go there."""

from __future__ import annotations

from collections.abc import Container
from typing import Final, Protocol

from cloned_proxy.policy.deciding.decide_addresses import decide_addresses, decide_unseen
from cloned_proxy.policy.deciding.refusal import refused
from cloned_proxy.policy.terms.decision import Decision
from cloned_proxy.policy.terms.rule import Address, Host
from cloned_proxy.policy.terms.vocabulary import Reason
from cloned_proxy.proxy.upstream.resolver import Resolver

_NOT_LOOKED_UP: Final[tuple[Address, ...]] = ()


class FrontNames(Protocol):
    """What a proxy in front says about names."""

    def looks_up(self, host: Host | None) -> bool:
        """Whether it alone looks the name up. Then there are no addresses here, and none is checked."""

    def closed_to(self, decision: Decision) -> Container[tuple[Address, int]]:
        """Where the decision may not lead, whatever its rule opens."""

    def closes(self, decision: Decision) -> bool:
        """Whether a name that is looked up elsewhere leads where the decision may not."""


class Places:
    """One for each enforcer."""

    def __init__(self, resolver: Resolver, own: Container[tuple[Address, int]], names: FrontNames | None) -> None:
        """`own` are the proxy's listeners."""
        self._resolver: Final = resolver
        self._own: Final = own
        self._names: Final = names

    def known(self, host: Host) -> tuple[Address, ...] | None:
        """What `resolve` would return at once; None when it would have to wait, or raise."""
        return _NOT_LOOKED_UP if self._is_elsewhere(host) else self._resolver.known(host)

    async def resolve(self, host: Host, tool: str | None = None) -> tuple[Address, ...]:
        """Raises ResolveError."""
        return _NOT_LOOKED_UP if self._is_elsewhere(host) else await self._resolver.resolve(host, tool)

    def judged(self, decision: Decision, addresses: tuple[Address, ...]) -> Decision:
        """The decision on these addresses, or on a name that is not looked up here."""
        if not addresses and self._names is not None and self._is_elsewhere(decision.host):
            unseen = decide_unseen(decision)
            is_closed = unseen.passes and self._names.closes(unseen)
            return refused(unseen, Reason.ADDRESS_NOT_ALLOWED) if is_closed else unseen
        return decide_addresses(decision, addresses, self._closed_to(decision))

    def _closed_to(self, decision: Decision) -> Container[tuple[Address, int]]:
        return self._own if self._names is None else self._names.closed_to(decision)

    def _is_elsewhere(self, host: Host | None) -> bool:
        return self._names is not None and self._names.looks_up(host)
