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
from typing import Final

from cloned_proxy.policy.callers.caller import Caller, CallerSource, IdentityRefusal, Principal
from cloned_proxy.policy.deciding.refusal import judged_by_both, refused, reported_by, verdict_of_refusal
from cloned_proxy.policy.deciding.rule_search import by_rules, networks_of
from cloned_proxy.policy.model.model import Limits, Policy, Scope
from cloned_proxy.policy.terms.decision import NO_NETWORKS, Decision, Request
from cloned_proxy.policy.terms.host import HostError, parse_host
from cloned_proxy.policy.terms.rule import Host
from cloned_proxy.policy.terms.vocabulary import OWN_HOST, Anonymous, Reason, Verdict

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
        # Such a request is not reported even as `ip_literal`: a spelling such as 0x7f.1 has no canonical host.
        return Decision(Verdict.DENY, error.reason, request, tool, mode=mode)
    if host.text == OWN_HOST or not 0 < request.port < _PORTS_END:
        # Our own name in `report` mode and under any rule, too: nothing outside may answer in it.
        reason = Reason.HOST_NOT_ALLOWED if host.text == OWN_HOST else Reason.MALFORMED_REQUEST
        return Decision(Verdict.DENY, reason, request, tool, host, mode=mode)
    if (refusal := _identity_refusal(policy, caller)) is not None:
        return Decision(Verdict.DENY, refusal, request, tool, host, mode=mode)

    scopes = _allowing_scopes(policy, scope, caller)
    denying = (scope, policy.global_scope)
    reason, rule, inspect = by_rules(scopes, denying, scope.public, host, request, now, spent, ended)
    verdict = Verdict.ALLOW if reason is Reason.ALLOWED else verdict_of_refusal(mode, reason)
    networks = networks_of(scopes, denying, now, ended) if verdict is not Verdict.DENY else NO_NETWORKS
    return Decision(verdict, reason, request, tool, host, rule, inspect, mode, networks=networks)


def _narrowed(decision: Decision, local: Decision) -> Decision:
    """A pass, if a second policy lets the request pass as well; else what that one says."""
    if not local.passes:
        return local
    joined = decision if decision.verdict is Verdict.REPORT else reported_by(decision, local)
    return replace(joined, inspect=decision.inspect or local.inspect, narrowed=local)


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
