"""How rules have been used, and what is left of leases, for whoever shows rules or decides as enforcement would."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cloned_proxy.store.audit.audit_log import AuditLog, RuleHits
from cloned_proxy.store.audit.policy_history import rules_seen
from cloned_proxy.store.leases.deadline import boot_id, uptime
from cloned_proxy.store.leases.lease_time import LeaseEnd
from cloned_proxy.store.workspaces.workspace import Workspace

if TYPE_CHECKING:  # `list` and `explain` read the policy from a cache, and need not build its classes
    from cloned_proxy.policy.model.model import Policy
    from cloned_proxy.policy.terms.rule import Rule


@dataclass(frozen=True, slots=True)
class RuleUse:
    """What the state knows of rules: what was taken from leases, how often each one decided, since when it is there."""

    uses: Mapping[str, int]
    hits: Mapping[str, RuleHits]
    ends: Mapping[str, LeaseEnd]
    seen: Mapping[str, float]
    """Unix seconds, by rule id; from the history of the policy."""

    def used(self, rule: Rule) -> int:
        return self.uses.get(rule.id, 0)

    def last_hit(self, rule: Rule) -> float | None:
        """Unix seconds; None for never."""
        return self.hits[rule.id].last if rule.id in self.hits else None

    def hit_count(self, rule: Rule) -> int:
        """Decisions by the rule so far."""
        return self.hits[rule.id].hits if rule.id in self.hits else 0

    def left(self, rule: Rule) -> float | None:
        """Seconds until the lease ends, by the clock that comes first; None for a rule without an end."""
        if rule.expires is None:
            return None
        now, end = time.time(), self.ends.get(rule.id)
        if end is None or end.expires != rule.expires or rule.denies:
            return rule.expires - now
        return end.at(now=now, up=uptime(), boot=boot_id()).left

    def ended(self, policy: Policy) -> frozenset[str]:
        """Ids of the leases whose time is over."""
        return frozenset(rule.id for rule in policy.rules if (left := self.left(rule)) is not None and left <= 0)

    def idle_since(self, rule: Rule) -> float | None:
        """Since when (Unix seconds) nothing was decided by the rule; None when that is not known."""
        known = [at for at in (self.last_hit(rule), self.seen.get(rule.id)) if at is not None]
        return max(known, default=None)

    def spent(self, policy: Policy) -> frozenset[str]:
        """Ids of the rules that have no use left."""
        return frozenset(r.id for r in policy.rules if r.max_uses is not None and self.used(r) >= r.max_uses)


NOTHING_USED: Final = RuleUse({}, {}, {}, {})


def rule_use(workspace: Workspace, policy_file: Path | None = None) -> RuleUse:
    """Nothing used where there is no state yet. `policy_file` is needed for `seen`. Raises StoreError."""
    if not workspace.state_db.exists():
        return NOTHING_USED
    with AuditLog(workspace.state_db) as log, log.reading() as database:
        seen = rules_seen(database, str(policy_file)) if policy_file is not None else {}
        return RuleUse(log.lease_uses(), log.rule_hits(), {end.rule: end for end in log.lease_ends()}, seen)
