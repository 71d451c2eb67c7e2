"""The decision point: pure, total, in one fixed order.

The order is the contract's (section 3), and each stage is a function, called in this order by every enforcement point:

1. `decide`            malformed, identity, explicit deny (tool, then global), tool allow, global allow (if inherited)
                       with expired and used-up leases skipped, default deny
2. `decide_addresses`  what the name resolved to
3. `decide_limits`     the tool's budget
4. `decide_tunnel`     the first bytes of a CONNECT tunnel: TLS, and its server name

A later stage can only turn a pass into a refusal. Nothing here raises: whatever goes wrong is a denial.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Sequence
from dataclasses import dataclass, replace
from typing import Final

from cloned_proxy.policy.address import AddressClass, classify
from cloned_proxy.policy.host import HostError, parse_host
from cloned_proxy.policy.model import (
    Address,
    Anonymous,
    Caller,
    CallerSource,
    Decision,
    Host,
    IdentityRefusal,
    Limits,
    Mode,
    Policy,
    Principal,
    Reason,
    Request,
    Rule,
    Scope,
    Verdict,
)
from cloned_proxy.policy.path import path_matches

NEVER_REPORTED: Final = frozenset(
    {
        Reason.MALFORMED_REQUEST,
        Reason.HOST_HEADER_MISMATCH,
        Reason.IDENTITY_MISSING,
        Reason.IDENTITY_INVALID,
        Reason.IDENTITY_EXPIRED,
        Reason.IDENTITY_MISMATCH,
        Reason.ADDRESS_NOT_ALLOWED,
        Reason.POLICY_UNAVAILABLE,
        Reason.INTERNAL_ERROR,
    }
)
"""Refusals that stand in `report` mode too (contract section 3)."""

# How far a rule came before it failed; the furthest one names the reason, because it is the one to fix.
_MISSES: Final = (
    Reason.HOST_NOT_ALLOWED,
    Reason.PORT_NOT_ALLOWED,
    Reason.METHOD_NOT_ALLOWED,
    Reason.PATH_NOT_ALLOWED,
    Reason.LEASE_EXPIRED,
    Reason.LEASE_USED_UP,
)
_MISS_RANK: Final = {reason: rank for rank, reason in enumerate(_MISSES)}

NOTHING_SPENT: Final[Collection[str]] = frozenset()


def decide(
    policy: Policy | None,
    caller: Caller,
    request: Request,
    now: float,
    spent: Collection[str] = NOTHING_SPENT,
) -> Decision:
    """Whether `caller` may ask for `request` at `now` (Unix seconds).

    `policy` None means that no valid policy was ever loaded. `spent` holds the ids of rules whose uses are used up.
    Never raises; an unexpected fault is `internal_error`.
    """
    try:
        return _decide(policy, caller, request, now, spent)
    except Exception:  # noqa: BLE001  the decision point is total: a fault in it must deny, not unwind into a hook
        return Decision(Verdict.DENY, Reason.INTERNAL_ERROR, request)


def _decide(policy: Policy | None, caller: Caller, request: Request, now: float, spent: Collection[str]) -> Decision:
    tool = caller.claimed if isinstance(caller, IdentityRefusal) else caller.tool
    if policy is None:
        return Decision(Verdict.DENY, Reason.POLICY_UNAVAILABLE, request, tool)
    try:
        host = parse_host(request.host)
    except HostError as error:
        # Not reportable even as `ip_literal`: a spelling such as 0x7f.1 has no canonical host to pass on.
        return Decision(Verdict.DENY, error.reason, request, tool, mode=policy.mode)
    if not 0 < request.port < 65536:
        return Decision(Verdict.DENY, Reason.MALFORMED_REQUEST, request, tool, host, mode=policy.mode)
    if (refusal := _identity_refusal(policy, caller)) is not None:
        return Decision(Verdict.DENY, refusal, request, tool, host, mode=policy.mode)

    scope = policy.scope_of(tool)
    for denying in (scope, policy.global_scope):
        for rule in denying.deny.matching(host):
            if rule.expires is None or now < rule.expires:
                return _refused(Decision(Verdict.ALLOW, Reason.ALLOWED, request, tool, host, rule, mode=policy.mode),
                                Reason.EXPLICIT_DENY)  # fmt: skip

    miss = Reason.HOST_NOT_ALLOWED if host.address is None else Reason.IP_LITERAL
    missed_rule: Rule | None = None
    for allowing in _allowing_scopes(policy, scope, caller):
        matched: Rule | None = None
        inspect = False
        for rule in allowing.allow.matching(host):
            reason = _miss_of(rule, request, now, spent)
            if reason is None:
                matched = matched or rule
                inspect = inspect or (request.method is None and rule.needs_inspection)
            elif _MISS_RANK[reason] > _MISS_RANK.get(miss, 0):
                miss, missed_rule = reason, rule
        if matched is not None:
            return Decision(Verdict.ALLOW, Reason.ALLOWED, request, tool, host, matched, inspect, policy.mode)
    # A near miss still says whether the flow would have been inspected, so that report mode can learn its paths.
    learning = request.method is None and missed_rule is not None and missed_rule.needs_inspection
    passed = Decision(Verdict.ALLOW, Reason.ALLOWED, request, tool, host, None, learning, policy.mode)
    return _refused(passed, miss)


def _identity_refusal(policy: Policy, caller: Caller) -> Reason | None:
    if isinstance(caller, IdentityRefusal):
        return caller.reason
    if caller.tool is not None:
        return None
    # Fail closed on a combination that no listener should produce: nameless, yet not the host listener's anonymous.
    if caller.source is CallerSource.ANONYMOUS and policy.anonymous is Anonymous.GLOBAL:
        return None
    return Reason.IDENTITY_MISSING


def _allowing_scopes(policy: Policy, scope: Scope, caller: Principal | IdentityRefusal) -> tuple[Scope, ...]:
    if isinstance(caller, IdentityRefusal):  # unreachable after `_identity_refusal`; denies if that ever changes
        return ()
    if caller.tool is None:
        return (policy.global_scope,)
    return (scope, policy.global_scope) if scope.inherit_global else (scope,)


def _miss_of(rule: Rule, request: Request, now: float, spent: Collection[str]) -> Reason | None:
    """Why an allow rule whose pattern covers the host does not allow the request; None when it does."""
    if request.port not in rule.ports:
        return Reason.PORT_NOT_ALLOWED
    if request.method is not None:
        if rule.methods is not None and request.method not in rule.methods:
            return Reason.METHOD_NOT_ALLOWED
        if rule.paths is not None and not any(path_matches(p, request.path or "") for p in rule.paths):
            return Reason.PATH_NOT_ALLOWED
    if rule.expires is not None and now >= rule.expires:
        return Reason.LEASE_EXPIRED
    if rule.id in spent:
        return Reason.LEASE_USED_UP
    return None


def _refused(decision: Decision, reason: Reason) -> Decision:
    """The decision turned into a refusal, or into a report where `report` mode lets it pass."""
    verdict = Verdict.REPORT if decision.mode is Mode.REPORT and reason not in NEVER_REPORTED else Verdict.DENY
    return replace(decision, verdict=verdict, reason=reason)


_OPENED_BY_PRIVATE: Final = frozenset({AddressClass.LOOPBACK, AddressClass.PRIVATE, AddressClass.CGNAT})


def decide_addresses(decision: Decision, addresses: Sequence[Address], own: Container[tuple[Address, int]]) -> Decision:
    """The decision after resolution: one address that is not allowed refuses the whole name.

    A resolver that mixes public and internal answers is either broken or an attack (DNS rebinding), and picking
    the public half would make the outcome depend on the order of the records. `own` are the proxy's listeners.
    """
    if not decision.passes:
        return decision
    if not addresses:
        return _refused(decision, Reason.ADDRESS_NOT_ALLOWED)
    # In report mode the rule at hand may be the deny that was reported; that one opens nothing.
    rule = decision.rule if decision.rule is not None and not decision.rule.denies else None
    port = decision.request.port
    literal = decision.host is not None and decision.host.address is not None
    for address in addresses:
        if (address, port) in own:
            return _refused(decision, Reason.ADDRESS_NOT_ALLOWED)
        address_class = classify(address)
        if address_class is AddressClass.PUBLIC or (literal and rule is not None):
            continue
        if rule is not None and rule.private_addresses and address_class in _OPENED_BY_PRIVATE:
            continue
        return _refused(decision, Reason.ADDRESS_NOT_ALLOWED)
    return decision


@dataclass(frozen=True, slots=True)
class Usage:
    """What a tool has used so far, before the request at hand."""

    concurrent: int
    requests_last_minute: int
    bytes_last_hour: int


def decide_limits(decision: Decision, limits: Limits, usage: Usage) -> Decision:
    """The decision after the tool's budget: refused when one more request would go over a limit."""
    if not decision.passes:
        return decision
    over = (
        (limits.concurrent is not None and usage.concurrent >= limits.concurrent)
        or (limits.requests_per_minute is not None and usage.requests_last_minute >= limits.requests_per_minute)
        or (limits.bytes_per_hour is not None and usage.bytes_last_hour >= limits.bytes_per_hour)
    )
    return _refused(decision, Reason.LIMIT_EXCEEDED) if over else decision


def decide_tunnel(decision: Decision, server_names: Sequence[str] | None) -> Decision:
    """The decision after the first bytes of a tunnel: `server_names` is the SNI list of its ClientHello, None: not TLS.

    The SNI must be the CONNECT host, exactly once (contract section 3). A tunnel to an allowed IP literal may leave
    it out (RFC 6066, section 3: literals are not permitted in it), but a name in one is still a mismatch.
    """
    if not decision.passes or (decision.rule is not None and decision.rule.raw_tcp):
        return decision
    if server_names is None:
        return _refused(decision, Reason.PROTOCOL_NOT_ALLOWED)
    host = decision.host
    if host is None:
        return _refused(decision, Reason.INTERNAL_ERROR)
    if not server_names:
        return decision if host.address is not None else _refused(decision, Reason.SNI_MISSING)
    return (
        decision
        if len(server_names) == 1 and _same_name(server_names[0], host)
        else _refused(decision, Reason.SNI_MISMATCH)
    )


def _same_name(server_name: str, host: Host) -> bool:
    try:
        return parse_host(server_name) == host
    except HostError:
        return False
