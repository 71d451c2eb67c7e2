"""What would be granted to a CONNECT, for who grants it elsewhere: counted there, within the limits, and on record."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cloned_proxy.policy.callers.caller import Caller, IdentityRefusal
from cloned_proxy.policy.terms.decision import Decision, Request
from cloned_proxy.proxy.enforce.question import PolicySource
from cloned_proxy.proxy.grants.budget import Budgets
from cloned_proxy.proxy.grants.grant import Grant
from cloned_proxy.proxy.upstream.places import Places
from cloned_proxy.telemetry.events import Kind


class Foresight:
    """One for each enforcer."""

    def __init__(
        self, outlook: Callable[[Caller, Request], Decision], policies: PolicySource, places: Places, budgets: Budgets
    ) -> None:
        """`outlook`: as of `Enforcer`."""
        self._outlook: Final = outlook
        self._policies: Final = policies
        self._places: Final = places
        self._budgets: Final = budgets

    def prospect(self, caller: Caller, request: Request) -> Grant | None:
        """What `Enforcer.authorise_now` would grant to a CONNECT if the limits allow it.

        Nothing is taken, nothing goes on record, and this grant permits nothing. None where nothing would be granted,
        or a name has to be looked up first.
        """
        policy, decision = self._policies.current, self._outlook(caller, request)
        host = decision.host
        if policy is None or host is None or isinstance(caller, IdentityRefusal) or not decision.passes:
            return None
        addresses = self._places.known(host)
        if addresses is None:
            return None
        decision = self._places.judged(decision, addresses)
        if not decision.passes:
            return None
        kind = Kind.INSPECTED_TUNNEL if decision.inspect else Kind.TUNNEL
        nothing = self._budgets.seen(caller.tool, up=0, down=0)
        return Grant("", kind, decision, caller, addresses, policy, nothing, 0.0)
