"""Where a name leads, and whether the decision at hand may go there."""

from __future__ import annotations

from collections.abc import Container
from typing import Final, Protocol

from cloned_proxy.policy.decide_addresses import decide_addresses
from cloned_proxy.policy.decision import Decision
from cloned_proxy.policy.refusal import refused
from cloned_proxy.policy.rule import Address, Host, PatternKind
from cloned_proxy.policy.vocabulary import Reason
from cloned_proxy.proxy.resolver import Resolver

_NOT_LOOKED_UP: Final[tuple[Address, ...]] = ()


class Names(Protocol):
    """What a proxy in front says about names."""

    def looks_up(self, host: Host | None) -> bool:
        """Whether it alone looks the name up. Then there are no addresses here, and none is checked."""

    def closed_to(self, decision: Decision) -> Container[tuple[Address, int]]:
        """Where the decision may not lead, whatever its rule opens."""

    def closes(self, decision: Decision) -> bool:
        """Whether a name that is looked up elsewhere leads where the decision may not."""


class Places:
    """One for each enforcer."""

    def __init__(self, resolver: Resolver, own: Container[tuple[Address, int]], names: Names | None) -> None:
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
        """The decision on these addresses; as it was for a name that is not looked up here.

        `public: true` promises that nothing private is reached, which nobody can say of a name that is not looked up.
        """
        if not addresses and self._names is not None and self._is_elsewhere(decision.host):
            rule = decision.rule
            is_public = rule is not None and rule.pattern.kind is PatternKind.PUBLIC
            is_closed = decision.passes and (is_public or self._names.closes(decision))
            return refused(decision, Reason.ADDRESS_NOT_ALLOWED) if is_closed else decision
        return decide_addresses(decision, addresses, self._closed_to(decision))

    def _closed_to(self, decision: Decision) -> Container[tuple[Address, int]]:
        return self._own if self._names is None else self._names.closed_to(decision)

    def _is_elsewhere(self, host: Host | None) -> bool:
        return self._names is not None and self._names.looks_up(host)
