"""What may be asked for at all, and by whom."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from cloned_proxy.policy.hints.offer import why_no_request
from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.reading.parse import PolicyError
from cloned_proxy.policy.secrets.redact import redact
from cloned_proxy.policy.terms.host import parse_pattern
from cloned_proxy.policy.terms.rule import PatternKind, Rule
from cloned_proxy.policy.terms.units import MAX_TERM, MIN_TERM
from cloned_proxy.policy.terms.vocabulary import GLOBAL_SCOPE, OWN_RULES
from cloned_proxy.store.approvals.approval import Origin, Proposal
from cloned_proxy.store.approvals.approval_errors import NeverAllowedError, NotAllowedToAskError
from cloned_proxy.store.policyfile.policy_entry import Entry, rules_of

MAX_ENTRIES: Final = 20
_MAX_USES: Final = 1_000_000


def checked(proposal: Proposal, *, most: int = MAX_ENTRIES) -> tuple[Proposal, tuple[Rule, ...]]:
    """The proposal with harmless text and hosts, and the rules it makes. Raises NeverAllowedError."""
    proposal = replace(proposal, reason=redact(proposal.reason))
    _check_terms(proposal, most)
    try:
        rules = rules_of(proposal.addition)
    except PolicyError as error:
        raise NeverAllowedError("; ".join(problem.message for problem in error.problems)) from error
    for rule in rules:
        _check_place(rule)
    return replace(proposal, entries=tuple(map(_as_seen, proposal.entries))), rules


def _as_seen(entry: Entry) -> Entry:
    """An international name as its A-label: characters that nobody sees, or takes for others, stay off the record."""
    return entry if entry.host.isascii() else replace(entry, host=str(parse_pattern(entry.host)))


def _check_terms(proposal: Proposal, most: int) -> None:
    if not 0 < len(proposal.entries) <= most:
        raise NeverAllowedError(f"a request names from 1 to {most} hosts, not {len(proposal.entries)}")
    if proposal.uses is not None and proposal.action == "deny":
        raise NeverAllowedError("'uses' counts what is allowed; leave it out of a deny")
    if proposal.uses is not None and not 0 < proposal.uses <= _MAX_USES:
        raise NeverAllowedError(f"'uses' is a number from 1 to {_MAX_USES}")
    if proposal.for_seconds is not None and not MIN_TERM <= proposal.for_seconds <= MAX_TERM:
        raise NeverAllowedError("'for' is a time from 1 second to 10 years")


def _check_place(rule: Rule) -> None:
    # A deny of such an address is as good as any other.
    harmless = rule.denies and rule.pattern.kind in (PatternKind.ADDRESS, PatternKind.CIDR)
    if (why := why_no_request(rule.pattern)) and not harmless:
        raise NeverAllowedError(why)


def check_permission(policy: Policy, asker: str, proposal: Proposal) -> None:
    """Whether the tool may ask for this scope (`may_request`). Raises NotAllowedToAskError with the fix."""
    may = policy.scope_of(asker).may_request
    if proposal.tool is None:
        if GLOBAL_SCOPE not in may:
            raise NotAllowedToAskError(_fix(asker, "the global rules", GLOBAL_SCOPE))
    elif proposal.tool == asker:
        if OWN_RULES not in may and asker not in may:
            raise NotAllowedToAskError(_fix(asker, "other rules", OWN_RULES))
    elif proposal.tool not in may:
        raise NotAllowedToAskError(_fix(asker, f"the rules of {proposal.tool}", proposal.tool))


def _fix(asker: str, what: str, word: str) -> str:
    return f"{asker} may not ask for {what}; the policy says so: tools.{asker}.may_request would have to name {word}"


def in_force(policy: Policy, proposal: Proposal, rules: Sequence[Rule]) -> bool:
    """Whether every one of the rules is in the policy already, for good: a lease may be asked for once more."""
    scope = policy.global_scope if proposal.tool is None else policy.scope_of(proposal.tool)
    index = scope.allow if proposal.action == "allow" else scope.deny
    lasting = {rule.id for rule in index.rules if rule.expires is None and rule.max_uses is None}
    return all(rule.id in lasting for rule in rules)


def key_of(asker: str, origin: Origin, rules: Sequence[Rule]) -> str:
    """What makes two requests the same one. Denied calls of one host and port are one, whatever their paths."""
    if origin == "denied":
        about = [f"{rule.scope} {rule.pattern} {sorted(rule.ports)}" for rule in rules]
    else:
        about = sorted(rule.id for rule in rules)  # the id is over scope, action, host and all that narrows it
    return hashlib.sha256("\n".join((asker, origin, *about)).encode()).hexdigest()
