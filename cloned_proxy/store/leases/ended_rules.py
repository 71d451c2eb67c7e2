"""Which rules of a policy have ended by themselves, and since when: what `prune` may take out of the file.

A rule that is in force by any clock is none of these. Only the two ends that a rule itself names count: its time
(`expires`, by the wall clock or the time since boot) and its uses (`max_uses`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cloned_proxy.policy.terms.rule import Rule
from cloned_proxy.store.leases.lease_time import LeaseEnd


@dataclass(frozen=True, slots=True)
class LeaseUse:
    """What the state knows of leases, as of `now` (Unix seconds) and `up` (seconds since the boot `boot`)."""

    now: float
    up: float
    boot: str
    used: Mapping[str, int] = field(default_factory=dict)
    """Uses taken, by rule id."""
    ends: Mapping[str, LeaseEnd] = field(default_factory=dict)
    last: Mapping[str, float] = field(default_factory=dict)
    """When each rule last decided (Unix seconds), by rule id."""


def ended_since(rule: Rule, use: LeaseUse) -> float | None:
    """When the rule ended (Unix seconds; `now` where only that it has is known); None while it is in force."""
    ended: list[float] = []
    if rule.expires is not None and use.now >= rule.expires:
        ended.append(rule.expires)
    if rule.denies:  # a deny counts no uses, and ends by the wall clock alone
        return min(ended, default=None)
    end = use.ends.get(rule.id)
    if end is not None and end.expires == rule.expires and end.at(now=use.now, up=use.up, boot=use.boot).left <= 0:
        ended.append(use.now)
    if rule.max_uses is not None and use.used.get(rule.id, 0) >= rule.max_uses:
        ended.append(use.last.get(rule.id, use.now))
    return min(ended, default=None)


def is_over(rule: Rule, use: LeaseUse, *, by_itself: bool, seconds: float = 0.0) -> bool:
    """Whether the rule ended so long ago that it may go.

    What goes without a person's word (`by_itself`) is never a deny: should the clock be wrong, an allow that is gone
    refuses, and a deny that is gone lets pass.
    """
    since = ended_since(rule, use)
    return since is not None and use.now - since >= seconds and not (by_itself and rule.denies)
