"""The decision point: pure, total, in one fixed order.

The order is the contract's (section 3), and each stage is a function, called in this order by every enforcement point:

1. `decide`            malformed, identity, explicit deny (tool, then global), tool allow, global allow (if inherited)
                       with expired and used-up leases skipped, default deny
2. `decide_addresses`  what the name resolved to
3. `decide_limits`     the tool's budget
4. `decide_tunnel`     each plaintext ClientHello of a CONNECT tunnel: TLS, and its server name

A later stage can only turn a pass into a refusal. Nothing here raises: whatever goes wrong is a denial.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv6Address
from typing import Final, NamedTuple

from cloned_proxy.policy.address import OPENED_BY, AddressClass, classify
from cloned_proxy.policy.caller import Caller, CallerSource, IdentityRefusal, Principal
from cloned_proxy.policy.decision import Decision, Request
from cloned_proxy.policy.host import HostError, parse_host
from cloned_proxy.policy.model import Limits, Policy, Scope
from cloned_proxy.policy.path import path_matches
from cloned_proxy.policy.registry_path import preferred
from cloned_proxy.policy.rule import Address, Host, Rule
from cloned_proxy.policy.vocabulary import OWN_HOST, Anonymous, Mode, Reason, Verdict

NEVER_REPORTED: Final = frozenset(
    {
        Reason.MALFORMED_REQUEST,
        Reason.HOST_HEADER_MISMATCH,
        Reason.IDENTITY_MISSING,
        Reason.IDENTITY_INVALID,
        Reason.IDENTITY_EXPIRED,
        Reason.IDENTITY_MISMATCH,
        Reason.ADDRESS_NOT_ALLOWED,
        Reason.SECRET_LEAK,
        Reason.SECRET_ECHOED,
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

_HTTP: Final = 80
_HTTPS: Final = 443
_PORTS_END: Final = 65_536

NOTHING_SPENT: Final[Collection[str]] = frozenset()


def decide(
    policy: Policy | None,
    caller: Caller,
    request: Request,
    now: float,
    spent: Collection[str] = NOTHING_SPENT,
    *,
    ended: Collection[str] = NOTHING_SPENT,
) -> Decision:
    """Whether `caller` may ask for `request` at `now` (Unix seconds).

    `policy` None means that no valid policy was ever loaded. `spent` holds the ids of rules whose uses are used up,
    `ended` those of rules whose time is over by another clock than `now`.
    Never raises; an unexpected fault is `internal_error`.
    """
    try:
        if policy is None:
            return Decision(Verdict.DENY, Reason.POLICY_UNAVAILABLE, request, _tool_of(caller))
        return _decide(policy, caller, request, now, spent, ended)
    except Exception:  # noqa: BLE001  the decision point is total: a fault in it must deny, not unwind into a hook
        return Decision(Verdict.DENY, Reason.INTERNAL_ERROR, request)


def _decide(  # noqa: PLR0917  a value for them would cost as much as the decision
    policy: Policy, caller: Caller, request: Request, now: float, spent: Collection[str], ended: Collection[str]
) -> Decision:
    tool = _tool_of(caller)
    scope = policy.scope_of(tool)
    mode = scope.mode or policy.mode
    try:
        host = parse_host(request.host)
    except HostError as error:
        # Not reportable even as `ip_literal`: a spelling such as 0x7f.1 has no canonical host to pass on.
        return Decision(Verdict.DENY, error.reason, request, tool, mode=mode)
    if host.text == OWN_HOST or not 0 < request.port < _PORTS_END:
        # Our own name in `report` mode and under any rule, too: nothing outside may answer in it.
        reason = Reason.HOST_NOT_ALLOWED if host.text == OWN_HOST else Reason.MALFORMED_REQUEST
        return Decision(Verdict.DENY, reason, request, tool, host, mode=mode)
    if (refusal := _identity_refusal(policy, caller)) is not None:
        return Decision(Verdict.DENY, refusal, request, tool, host, mode=mode)

    if (denying := _denying_rule((scope, policy.global_scope), host, now)) is not None:
        verdict = _verdict_of_refusal(mode, Reason.EXPLICIT_DENY)
        return Decision(verdict, Reason.EXPLICIT_DENY, request, tool, host, denying, mode=mode)
    scopes = _allowing_scopes(policy, scope, caller)
    found = _search(scopes, host, request, now, spent, ended)
    if isinstance(found, _Match):
        if any(scope.allow.dated for scope in scopes):
            covering = (rule for scope in scopes for rule in scope.allow.matching(host))
            # A rule for port 80 must not lead to the same registry in the clear, where nothing is left out.
            asked = replace(request, port=_HTTPS) if request.port == _HTTP else request
            allowing = (rule for rule in covering if _miss_of(rule, asked, now, spent, ended) is None)
            dating = preferred(allowing, request.path)
            found = found if dating is None else _Match(dating, request.method is None)
        return Decision(Verdict.ALLOW, Reason.ALLOWED, request, tool, host, found.rule, found.inspect, mode)
    verdict = _verdict_of_refusal(mode, found.reason)
    # A near miss still says whether the flow would have been inspected, so that report mode can learn its paths.
    learning = request.method is None and found.rule is not None and found.rule.needs_inspection
    return Decision(verdict, found.reason, request, tool, host, None, learning, mode)


# Named tuples, not dataclasses: one is made for each decision, at a third of the cost.
class _Match(NamedTuple):
    rule: Rule
    inspect: bool


class _Miss(NamedTuple):
    reason: Reason
    rule: Rule | None = None
    """The rule that came closest."""


_NAME_MISS: Final = _Miss(Reason.HOST_NOT_ALLOWED)
_LITERAL_MISS: Final = _Miss(Reason.IP_LITERAL)


def _denying_rule(scopes: Sequence[Scope], host: Host, now: float) -> Rule | None:
    for scope in scopes:
        for rule in scope.deny.matching(host) if scope.deny.rules else ():
            if rule.expires is None or now < rule.expires:
                return rule
    return None


def _search(  # noqa: PLR0917  as `_decide`
    scopes: Sequence[Scope],
    host: Host,
    request: Request,
    now: float,
    spent: Collection[str],
    ended: Collection[str],
) -> _Match | _Miss:
    """The rule of the first scope that allows the request, or the miss that came furthest over all scopes."""
    miss = _NAME_MISS if host.address is None else _LITERAL_MISS
    for scope in scopes:
        first: Rule | None = None
        inspect = False
        for rule in scope.allow.matching(host) if scope.allow.rules else ():
            reason = _miss_of(rule, request, now, spent, ended)
            if reason is None:
                first = first or rule
                inspect = inspect or (request.method is None and rule.needs_inspection)
            elif _MISS_RANK[reason] > _MISS_RANK.get(miss.reason, 0):
                miss = _Miss(reason, rule)
        if first is not None:
            return _Match(first, inspect)
    return miss


def _tool_of(caller: Caller) -> str | None:
    return caller.claimed if isinstance(caller, IdentityRefusal) else caller.tool


def _identity_refusal(policy: Policy, caller: Caller) -> Reason | None:
    if isinstance(caller, IdentityRefusal):
        return caller.reason
    if caller.tool is not None:
        return None
    # Fail closed on a combination that no listener should produce: nameless, yet not the host listener's anonymous.
    if caller.source is CallerSource.ANONYMOUS and policy.anonymous is not Anonymous.DENY:
        return None
    return Reason.IDENTITY_MISSING


def _allowing_scopes(policy: Policy, scope: Scope, caller: Principal | IdentityRefusal) -> tuple[Scope, ...]:
    if isinstance(caller, IdentityRefusal):  # unreachable after `_identity_refusal`; denies if that ever changes
        return ()
    if caller.tool is None:
        return (policy.global_scope,)
    return (scope, policy.global_scope) if scope.inherit_global else (scope,)


def _miss_of(rule: Rule, request: Request, now: float, spent: Collection[str], ended: Collection[str]) -> Reason | None:
    """Why an allow rule whose pattern covers the host does not allow the request; None when it does."""
    if request.port not in rule.ports:
        return Reason.PORT_NOT_ALLOWED
    if request.method is not None and (reason := _inner_miss_of(rule, request.method, request.path or "")) is not None:
        return reason
    if rule.expires is not None and (now >= rule.expires or rule.id in ended):
        return Reason.LEASE_EXPIRED
    return Reason.LEASE_USED_UP if rule.id in spent else None


def _inner_miss_of(rule: Rule, method: str, path: str) -> Reason | None:
    if rule.methods is not None and method not in rule.methods:
        return Reason.METHOD_NOT_ALLOWED
    if rule.paths is not None and not any(path_matches(pattern, path) for pattern in rule.paths):
        return Reason.PATH_NOT_ALLOWED
    return None


def _verdict_of_refusal(mode: Mode, reason: Reason) -> Verdict:
    return Verdict.REPORT if mode is Mode.REPORT and reason not in NEVER_REPORTED else Verdict.DENY


def _refused(decision: Decision, reason: Reason) -> Decision:
    """The decision turned into a refusal, or into a report where `report` mode lets it pass."""
    return replace(decision, verdict=_verdict_of_refusal(decision.mode, reason), reason=reason)


def decide_addresses(decision: Decision, addresses: Sequence[Address], own: Container[tuple[Address, int]]) -> Decision:
    """The decision after resolution: one address that is not allowed refuses the whole name.

    A resolver that mixes public and internal answers is either broken or an attack (DNS rebinding), and picking
    the public half would make the outcome depend on the order of the records. `own` are the proxy's listeners.
    """
    if not decision.passes:
        return decision
    if not addresses:
        return _refused(decision, Reason.ADDRESS_NOT_ALLOWED)
    for address in addresses:
        if not _may_dial(decision, address, own):
            return replace(_refused(decision, Reason.ADDRESS_NOT_ALLOWED), refused_address=address)
    return decision


def _may_dial(decision: Decision, address: Address, own: Container[tuple[Address, int]]) -> bool:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    # Dialling the unspecified address connects to this machine, so no rule opens it, and `::ffff:a.b.c.d` is a.b.c.d.
    if address.is_unspecified or (mapped is not None and mapped.is_unspecified):
        return False
    port = decision.request.port
    if (address, port) in own or (mapped is not None and (mapped, port) in own):
        return False
    literal = decision.host.address if decision.host is not None else None
    if literal is not None and address != literal:
        return False
    address_class = classify(address)
    if address_class is AddressClass.PUBLIC:
        return True
    # In report mode the rule at hand may be the deny that was reported; that one opens nothing.
    rule = decision.rule
    if rule is None or rule.denies:
        return False
    return literal is not None or OPENED_BY.get(address_class) in rule.addresses


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
    """The decision after a ClientHello of a tunnel: `server_names` is its SNI list, None: what came is not TLS.

    The SNI must be the CONNECT host, exactly once (contract section 3). A tunnel to an allowed IP literal may leave
    it out (RFC 6066, section 3: literals are not permitted in it), but a name in one is still a mismatch.
    """
    if not decision.passes or not needs_hello(decision):
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


def needs_hello(decision: Decision) -> bool:
    """Whether the first bytes of a tunnel can change anything about the decision: raw TCP passes whatever it says."""
    return not (decision.rule is not None and decision.rule.raw_tcp)


def _same_name(server_name: str, host: Host) -> bool:
    try:
        return parse_host(server_name) == host
    except HostError:
        return False
