"""The decision point: pure, total, in one fixed order.

The order is that of docs/policy.md#the-order-of-a-decision. Each stage is a function, and every enforcement point calls
them in this order:

1. `decide`            malformed, identity, explicit deny (tool, then global), tool allow, global allow (if inherited)
                       with expired and used-up leases skipped, default deny
2. `decide_addresses`  what the name resolved to (`policy.deciding.decide_addresses`)
3. `decide_limits`     the tool's budget
4. `decide_tunnel`     each plaintext ClientHello of a CONNECT tunnel: TLS, and its server name

A later stage can only turn a pass into a refusal. Nothing here raises: whatever goes wrong is a denial.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from cloned_proxy.policy.callers.caller import Caller, CallerSource, IdentityRefusal, Principal
from cloned_proxy.policy.deciding.refusal import judged_by_both, refused, reported_by, verdict_of_refusal
from cloned_proxy.policy.model.model import Limits, Policy, Scope
from cloned_proxy.policy.paths.path import path_denied, path_matches
from cloned_proxy.policy.paths.registry_path import preferred
from cloned_proxy.policy.terms.address import AddressClass, classify
from cloned_proxy.policy.terms.decision import NO_NETWORKS, Decision, NetworkRules, Request
from cloned_proxy.policy.terms.exception import is_excepted
from cloned_proxy.policy.terms.host import HostError, parse_host
from cloned_proxy.policy.terms.rule import Host, Rule
from cloned_proxy.policy.terms.vocabulary import OWN_HOST, Anonymous, Reason, Verdict

# How far a rule came before it failed; the furthest one names the reason, because it is the one to fix.
_MISSES: Final = (
    Reason.HOST_NOT_ALLOWED,
    Reason.PORT_NOT_ALLOWED,
    Reason.PROTOCOL_NOT_ALLOWED,
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
        decision = _decide(policy, caller, request, now, spent, ended)
        if policy.narrowed_by is None or not decision.passes:
            return decision
        return _narrowed(decision, _decide(policy.narrowed_by, caller, request, now, spent, ended))
    except Exception:  # noqa: BLE001  the decision point is total: a fault in it must deny, not unwind into a hook
        return Decision(Verdict.DENY, Reason.INTERNAL_ERROR, request)


def _decide(  # noqa: PLR0917  hot path: packing the arguments costs as much as deciding
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

    scopes = _allowing_scopes(policy, scope, caller)
    denying = (scope, policy.global_scope)
    reason, rule, inspect = _by_rules(scopes, denying, scope.public, host, request, now, spent, ended)
    verdict = Verdict.ALLOW if reason is Reason.ALLOWED else verdict_of_refusal(mode, reason)
    networks = _networks(scopes, denying, now, ended) if verdict is not Verdict.DENY else NO_NETWORKS
    return Decision(verdict, reason, request, tool, host, rule, inspect, mode, networks=networks)


def _narrowed(decision: Decision, local: Decision) -> Decision:
    """A pass, if a second policy lets the request pass as well; else what that one says."""
    if not local.passes:
        return local
    joined = decision if decision.verdict is Verdict.REPORT else reported_by(decision, local)
    return replace(joined, inspect=decision.inspect or local.inspect, narrowed=local)


def _by_rules(  # noqa: PLR0917  as `_decide`
    allowing: Sequence[Scope],
    denying: Sequence[Scope],
    public: Rule | None,
    host: Host,
    request: Request,
    now: float,
    spent: Collection[str],
    ended: Collection[str],
) -> tuple[Reason, Rule | None, bool]:
    """What the rules say: the reason, the rule that is to be named, and whether TLS must be opened."""
    denies, watched = _denying_rule(denying, host, request, now)
    if denies is not None:
        return Reason.EXPLICIT_DENY, denies, False
    found = _search(allowing, host, request, now, spent, ended)
    if public is not None and isinstance(found, _Miss) and _is_public(public, host, request.port):
        found = _Match(public, inspect=False)
    if isinstance(found, _Miss):
        # A near miss still says whether the flow would have been inspected, so that report mode can learn its paths.
        learning = request.method is None and found.rule is not None and found.rule.needs_inspection
        return found.reason, None, learning
    if allowing[0].allow.dated or allowing[-1].allow.dated:  # of the one or two
        covering = (rule for scope in allowing for rule in scope.allow.matching(host))
        # A rule for port 80 must not lead to the same registry in the clear, where nothing is left out.
        asked = replace(request, port=_HTTPS) if request.port == _HTTP else request
        dating = preferred(
            (rule for rule in covering if _miss_of(rule, asked, now, spent, ended) is None), request.path
        )
        found = found if dating is None else _Match(dating, request.method is None)
    if watched is not None and found.rule.raw_tcp:  # in what may be anything nobody can look for paths
        return Reason.EXPLICIT_DENY, watched, False
    return Reason.ALLOWED, found.rule, found.inspect or watched is not None


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


def _denying_rule(scopes: Sequence[Scope], host: Host, request: Request, now: float) -> tuple[Rule | None, Rule | None]:
    """The deny that covers the request, and one that may cover paths inside of a tunnel, which must be opened then."""
    watched: Rule | None = None
    for scope in scopes:
        for rule in scope.deny.matching(host) if scope.deny.rules else ():
            if (rule.expires is not None and now >= rule.expires) or is_excepted(rule, host):
                continue
            if rule.paths is None:
                return rule, watched
            if request.method is None:
                watched = watched or rule
            elif any(path_denied(pattern, request.path or "") for pattern in rule.paths):
                return rule, watched
    return None, watched


def _networks(allowing: Sequence[Scope], denying: Sequence[Scope], now: float, ended: Collection[str]) -> NetworkRules:
    """`allowing` are some of `denying`. Nearly no policy has networks, so the usual way costs next to nothing."""
    for scope in denying:
        if scope.allow.networks is not None or scope.deny.networks is not None:
            break
    else:
        return NO_NETWORKS
    allow = tuple(scope.allow.networks for scope in allowing if scope.allow.networks is not None)
    deny = tuple(scope.deny.networks for scope in denying if scope.deny.networks is not None)
    return NetworkRules(allow, deny, now, ended)


def _is_public(rule: Rule, host: Host, port: int) -> bool:
    """Whether `public: true` covers the host: a name with a dot, whose addresses are looked at later, or a literal."""
    if port not in rule.ports:
        return False
    return "." in host.text if host.address is None else classify(host.address) is AddressClass.PUBLIC


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
    if rule.only_ssh and request.method is not None:
        return Reason.PROTOCOL_NOT_ALLOWED
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
    return refused(decision, Reason.LIMIT_EXCEEDED) if over else decision


def decide_tunnel(  # noqa: PLR0911  one for each reason
    decision: Decision, server_names: Sequence[str] | None, *, ssh: bool = False
) -> Decision:
    """The decision after a ClientHello of a tunnel: `server_names` is its SNI list, None: what came is not TLS.

    But perhaps `ssh`, as which both sides have identified themselves (RFC 4253, section 4.2).
    The SNI must be the CONNECT host, exactly once (docs/policy.md#the-order-of-a-decision). A tunnel to an allowed IP
    literal may leave it out (RFC 6066, section 3: literals are not permitted in it), but a name in one is a mismatch.
    """
    if decision.passes and decision.narrowed is not None:
        # Each policy judges the tunnel by its own rule: SSH, which only the local one wants, is no TLS for the other.
        return judged_by_both(decision, lambda each: decide_tunnel(each, server_names, ssh=ssh))
    if not decision.passes or (decision.rule is not None and decision.rule.raw_tcp):
        return decision
    if decision.must_be_ssh:
        return decision if ssh else refused(decision, Reason.PROTOCOL_NOT_ALLOWED)
    if server_names is None:
        return refused(decision, Reason.PROTOCOL_NOT_ALLOWED)
    host = decision.host
    if host is None:
        return refused(decision, Reason.INTERNAL_ERROR)
    if not server_names:
        return decision if host.address is not None else refused(decision, Reason.SNI_MISSING)
    same = len(server_names) == 1 and _same_name(server_names[0], host)
    return decision if same else refused(decision, Reason.SNI_MISMATCH)


def needs_hello(decision: Decision) -> bool:
    """Whether a ClientHello is waited for: under a rule that wants none, the server may be the one who speaks first."""
    own = not (decision.rule is not None and (decision.rule.raw_tcp or decision.rule.only_ssh))
    return own or (decision.narrowed is not None and needs_hello(decision.narrowed))


def _same_name(server_name: str, host: Host) -> bool:
    try:
        return parse_host(server_name) == host
    except HostError:
        return False
