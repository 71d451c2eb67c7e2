"""What a reviewer should know before a yes: what the proposed rules would have matched, reach beyond, and could be."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from cloned_proxy.policy.model.model import Policy, Scope
from cloned_proxy.policy.paths.path_shape import plain_path
from cloned_proxy.policy.terms.address import AddressClass, classify
from cloned_proxy.policy.terms.decision import Decision
from cloned_proxy.policy.terms.host import HostError, parse_host
from cloned_proxy.policy.terms.http_token import METHOD
from cloned_proxy.policy.terms.rule import PatternKind, Rule
from cloned_proxy.store.approvals.approval import Approval, Proposal, entry_data
from cloned_proxy.store.approvals.covered_calls import OUTER, CoveredCalls, Matched
from cloned_proxy.store.audit.tally import RecordedCall, Tally
from cloned_proxy.store.policyfile.policy_entry import Entry, rules_of

_SHOWN: Final = 50
MAX_NARROWEST: Final = 50
"""Entries; a longer list is nothing that a person reads before a yes."""
_TOO_MANY: Final = f"more than {MAX_NARROWEST} hosts were denied, so no narrower rules are proposed"
_MAX_PATH: Final = 1024
_MAX_PATHS: Final = 8
"""Paths of one host that are listed one by one; with more, the narrowest rule names the host and its ports."""


@dataclass(frozen=True, slots=True)
class Evidence:
    since: float
    """Unix seconds: what is older was not looked at."""
    policy_version: str
    """Version of the policy on which a reviewer decides; `approve` takes it as `expected_version`."""
    matched: tuple[Matched, ...]
    """The most frequent first."""
    matched_more: int
    """Pairs of tool and host beyond those listed."""
    wildcard_reach: tuple[str, ...]
    """Recorded names that a wildcard covers and that the asker was not denied."""
    denied: tuple[RecordedCall, ...]
    """What the asker was refused and these rules, or other ones for the same hosts, would mend."""
    narrowest: tuple[Entry, ...]
    """The narrowest rules that cover `denied`; empty when nothing was denied, or when the proposal is a deny."""
    notes: tuple[str, ...]
    """Plain statements: what a wildcard opens, what makes the rule useless or dangerous."""

    @property
    def digest(self) -> str:
        """Hash of `narrowest`: given to `approve` as `seen`, it refuses when later denials have changed that."""
        return hashlib.sha256(repr(self.narrowest).encode()).hexdigest()[:12]

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "since": self.since,
            "policy_version": self.policy_version,
            "matched": [
                {"tool": m.tool, "host": m.host, "passed": m.passed, "denied": m.denied, "last": m.last}
                for m in self.matched
            ],
            "matched_more": self.matched_more,
            "wildcard_reach": list(self.wildcard_reach),
            "denied": [
                {"host": c.host, "port": c.port, "method": c.method, "path": c.path, "reason": c.reason,
                 "count": c.count, "last": c.last}
                for c in self.denied
            ],
            "narrowest": [entry_data(entry) for entry in self.narrowest],
            "notes": list(self.notes),
            "digest": self.digest,
        }  # fmt: skip


def weigh(approval: Approval, tally: Tally, policy: Policy, *, since: float, now: float) -> Evidence:
    """The evidence for one request, out of the recorded calls and the policy in force. Raises StoreError."""
    proposal = approval.proposal
    rules = rules_of(proposal.addition)
    calls = CoveredCalls(tally, proposal, rules, policy, since=since, asker=approval.asker)
    matched, pairs = calls.matched(_SHOWN)
    # One denied call says what its host is wanted for, not yet how.
    whole_hosts = approval.origin == "denied"
    hosts = calls.denied_hosts(MAX_NARROWEST + 1, whole_hosts=whole_hosts)
    # Each of a few hosts has a bounded number of calls on record, and all of them count for the narrowest rules.
    few = len(hosts) <= MAX_NARROWEST
    denied = calls.denied(-1 if few else _SHOWN, whole_hosts=whole_hosts) if hosts else []
    narrower = narrowest(denied) if few and proposal.action == "allow" else ()
    too_many = proposal.action == "allow" and (not few or len(narrower) > MAX_NARROWEST)
    return Evidence(
        since=since,
        policy_version=policy.version,
        matched=tuple(matched),
        matched_more=pairs - len(matched),
        wildcard_reach=tuple(calls.reached(_SHOWN)) if any(map(_is_wildcard, rules)) else (),
        denied=tuple(denied[:_SHOWN]),
        narrowest=() if too_many else narrower,
        notes=(*_notes(proposal, rules, policy, now), *([_TOO_MANY] if too_many else [])),
    )


def _is_wildcard(rule: Rule) -> bool:
    return rule.pattern.is_wildcard


def narrowest(denied: Iterable[RecordedCall]) -> tuple[Entry, ...]:
    """The narrowest entries that cover every one of these calls.

    Of a tunnel only host and port are known: naming methods there would have its TLS opened, which nobody asked for.
    """
    tunnels: dict[str, set[int]] = {}
    inner: dict[tuple[str, int], tuple[set[str], set[str]]] = {}
    for call in denied:
        if call.method in OUTER:
            tunnels.setdefault(call.host, set()).add(call.port)
        else:
            methods, paths = inner.setdefault((call.host, call.port), (set(), set()))
            methods.add(call.method)
            paths.add(call.path)
    entries = [Entry(host, tuple(sorted(ports))) for host, ports in sorted(tunnels.items())]
    for (host, port), (methods, paths) in sorted(inner.items()):
        listed = tuple(sorted(paths)) if len(paths) <= _MAX_PATHS and all(map(_is_whole, paths)) else ()
        named = tuple(sorted(methods)) if all(map(METHOD.fullmatch, methods)) else ()
        entries.append(Entry(host, (port,), named, listed))
    return tuple(entries)


def narrowest_entry(decision: Decision) -> Entry:
    """The narrowest entry that covers one denied call. Raises ValueError for a host that could not be read."""
    host, request = decision.host, decision.request
    if host is None:
        raise ValueError("a denied call without a readable host")
    if request.method is None:
        return Entry(host.text, (request.port,))
    path = (request.path or "/").partition("?")[0]
    paths = (path,) if _is_whole(path) else ()
    methods = (request.method,) if METHOD.fullmatch(request.method) else ()
    return Entry(host.text, (request.port,), methods, paths)


def _is_whole(path: str) -> bool:
    """Whether a rule can name this recorded path. One of the longest recorded length may have been cut."""
    return plain_path(path) and len(path) < _MAX_PATH


def _notes(proposal: Proposal, rules: Iterable[Rule], policy: Policy, now: float) -> Iterable[str]:
    if proposal.tool is None:
        yield "this is for every tool that inherits the global rules, and for callers without a credential"
    if proposal.action == "deny":
        return
    own = policy.scope_of(proposal.tool)
    for rule in rules:
        yield from _about(rule, (own, policy.global_scope), now)
    if proposal.for_seconds is None and proposal.uses is None:
        yield "it has no end: nothing takes the rule back by itself"


def _about(rule: Rule, scopes: Iterable[Scope], now: float) -> Iterable[str]:
    name = rule.pattern.value
    match rule.pattern.kind:
        case PatternKind.ONE_LABEL:
            yield f"{rule.pattern} reaches every name with one more label in front of {name}, recorded or not"
        case PatternKind.ANY_DEPTH:
            yield f"{rule.pattern} reaches every name below {name} at any depth, recorded or not"
        case PatternKind.ADDRESS:
            kind = classify(ipaddress.ip_address(name))
            if kind is not AddressClass.PUBLIC:
                yield f"{name} is no public address ({kind.value}): it opens this machine or your own network"
        case PatternKind.EXACT | PatternKind.CIDR | PatternKind.PUBLIC:  # of the last two nobody asks for any
            pass
    try:
        host = parse_host(name if not _is_wildcard(rule) else f"a.{name}")
    except HostError:
        return
    for scope in scopes:
        for deny in scope.deny.matching(host):
            if deny.expires is None or now < deny.expires:
                yield f"an explicit deny covers it and wins: {deny.origin}"
