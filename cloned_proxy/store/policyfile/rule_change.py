"""Changing one rule where it stands: what is not named keeps its words, its place and its comments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.terms.vocabulary import GLOBAL_SCOPE
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.files.list_edit import rewrite_entry
from cloned_proxy.store.files.yaml_edit import Value


@dataclass(frozen=True, slots=True)
class RuleChange:
    """What one rule is to say. Its host, scope and action stay: another host is another rule."""

    terms: Mapping[str, Value] = field(default_factory=dict)
    """Keys of the file's entry with their new values: `ports`, `methods`, `paths`, `expires`, `max_uses`, `reason`."""
    dropped: frozenset[str] = frozenset()
    """Keys that go."""

    def __str__(self) -> str:
        return ", ".join([*self.terms, *(f"no {name}" for name in sorted(self.dropped))])


def change_rule(text: str, policy: Policy, rule_id: str, change: RuleChange, *, used: int) -> str:
    """The policy's text with one rule changed; `max_uses` counts on top of the `used` ones.

    Raises StoreError, also for no such rule.
    """
    path = Path(policy.source)
    for name, scope in ((GLOBAL_SCOPE, policy.global_scope), *policy.tools.items()):
        where = (GLOBAL_SCOPE,) if name == GLOBAL_SCOPE else ("tools", name)
        for action, rules in (("allow", scope.allow.rules), ("deny", scope.deny.rules)):
            position = next((at for at, rule in enumerate(rules) if rule.id == rule_id and not rule.preset), None)
            if position is not None:
                changes, place = _terms(change, used), (*where, action)
                return rewrite_entry(path, text, place, position, changes=changes, dropped=change.dropped)
    raise StoreError(f"{path}: there is no rule {rule_id} any more; look at the rules again")


def _terms(change: RuleChange, used: int) -> dict[str, Value]:
    uses = change.terms.get("max_uses")
    return {**change.terms, "max_uses": uses + used} if isinstance(uses, int) else dict(change.terms)
