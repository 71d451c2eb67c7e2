"""The policy that is decided by: the live one, and what people have granted beside it."""

from __future__ import annotations

from collections.abc import Callable

from cloned_proxy.policy.model.granted import with_granted
from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.terms.rule import Rule


class GrantedPolicies:
    """A `question.PolicySource`: one immutable value until the live policy or what is granted changes."""

    def __init__(self, live: Callable[[], Policy | None]) -> None:
        self._live = live
        self._granted: tuple[Rule, ...] = ()
        self._made: tuple[Policy, Policy] | None = None
        """The live policy, and what was made of it."""

    @property
    def current(self) -> Policy | None:
        live = self._live()
        # Where everything is denied, for want of a policy, no approval opens anything.
        return live if live is None or not self._granted else self.with_granted(live)

    @property
    def granted(self) -> tuple[Rule, ...]:
        return self._granted

    @granted.setter
    def granted(self, rules: tuple[Rule, ...]) -> None:
        self._granted = rules
        self._made = None

    def with_granted(self, live: Policy) -> Policy:
        """The policy with what is granted now."""
        if not self._granted:
            return live
        if self._made is None or self._made[0] is not live:
            self._made = (live, with_granted(live, self._granted))
        return self._made[1]
