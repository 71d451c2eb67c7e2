"""Uses taken from rules with `max_uses`: counted in memory, persisted with the decision they paid for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from cloned_proxy.policy.model import Rule


class LeaseLedger:
    """Implements `proxy.budget.LeaseLedger`.

    A use is taken in memory first and written with its DecisionEvent. If that write fails the request is refused and
    the use stays taken until a restart: the count errs to the safe side.
    """

    def __init__(self, used: Mapping[str, int], forget: Callable[[tuple[str, ...]], None]) -> None:
        self._used = dict(used)
        self._forget = forget
        self._spent: set[str] = set()

    @property
    def spent(self) -> Collection[str]:
        """Ids of rules with no use left; a live view."""
        return self._spent

    def used(self, rule: str) -> int:
        """Uses taken from a rule so far."""
        return self._used.get(rule, 0)

    def take(self, rule: Rule) -> bool:
        """Takes one use; False when none is left."""
        if rule.max_uses is None:
            return True
        used = self._used.get(rule.id, 0)
        if used < rule.max_uses:
            used += 1
            self._used[rule.id] = used
            granted = True
        else:
            granted = False
        if used >= rule.max_uses:
            self._spent.add(rule.id)
        return granted

    def keep(self, rules: Iterable[Rule]) -> None:
        """Follows a policy that came into force: counts of rules that left it go, a raised `max_uses` counts at once.

        Raises AuditUnavailableError when the counts that go cannot be removed from the database.
        """
        leased = {rule.id: rule.max_uses for rule in rules if rule.max_uses is not None}
        gone = tuple(rule for rule in self._used if rule not in leased)
        for rule in gone:
            del self._used[rule]
        # Replaced, not cleared: nobody may see the set while it is half filled.
        self._spent = {rule for rule, uses in leased.items() if self._used.get(rule, 0) >= uses}
        if gone:
            self._forget(gone)
