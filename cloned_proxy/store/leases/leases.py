"""Leases: uses taken from rules with `max_uses`, as this process knows them between two looks into the database.

A use is taken for good in the transaction that records its decision (`AuditWriter.commit`), where every process sees
the same count. The ledger spares the others the way there, and tells the open tunnels.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from cloned_proxy.policy.terms.rule import Rule
from cloned_proxy.store.leases.lease_time import LeaseTimes


class LeaseLedger:
    """Implements `proxy.grants.budget.LeaseLedger`."""

    def __init__(
        self,
        used: Mapping[str, int],
        forget: Callable[[tuple[str, ...]], None],
        times: LeaseTimes | None = None,
    ) -> None:
        self.times = times or LeaseTimes()
        self._used = dict(used)
        self._forget = forget
        self._leased: dict[str, int] = {}
        self._spent: set[str] = set()

    @property
    def spent(self) -> Collection[str]:
        """Ids of rules with no use left; a live view."""
        return self._spent

    @property
    def ended(self) -> Collection[str]:
        """Ids of rules whose time is over by any clock; a live view."""
        return self.times.ended

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

    def give_back(self, rule: Rule) -> None:
        """The use was taken here, and nowhere else: it did not come about."""
        self._used[rule.id] = max(self._used.get(rule.id, 0) - 1, 0)
        if rule.max_uses is not None and self._used[rule.id] < rule.max_uses:
            self._spent.discard(rule.id)

    def exhaust(self, rule: Rule) -> None:
        """The database says that nothing is left of the rule."""
        self._used[rule.id] = max(self._used.get(rule.id, 0), rule.max_uses or 0)
        self._spent.add(rule.id)

    @property
    def watches(self) -> bool:
        """Whether the policy in force has any rule with `max_uses`."""
        return bool(self._leased)

    def learn(self, used: Mapping[str, int]) -> None:
        """Takes over the counts of the database: other processes have taken uses, too."""
        self._used.update((rule, used.get(rule, 0)) for rule in self._leased)
        self._judge()

    def keep(self, rules: Iterable[Rule], *, forget: bool = True) -> None:
        """Follows a policy that came into force: counts of rules that left it go, a raised `max_uses` counts at once.

        `forget` False leaves the database to another worker: a late one must not take back uses of a rule that has
        returned meanwhile. Raises AuditUnavailableError when the counts that go cannot be removed from the database.
        """
        rules = tuple(rules)
        self.times.follow(rules)
        self._leased = {rule.id: rule.max_uses for rule in rules if rule.max_uses is not None}
        gone = tuple(rule for rule in self._used if rule not in self._leased)
        for rule in gone:
            del self._used[rule]
        self._judge()
        if gone and forget:
            self._forget(gone)

    def _judge(self) -> None:
        # Replaced, not cleared: nobody may see the set while it is half filled.
        self._spent = {rule for rule, uses in self._leased.items() if self._used.get(rule, 0) >= uses}
