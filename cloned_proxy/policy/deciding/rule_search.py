"""What the rules of a policy say of a request: the denies first, then the rule that allows it, or how near one came."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from cloned_proxy.policy.model.model import Scope
from cloned_proxy.policy.paths.path import path_denied, path_matches
from cloned_proxy.policy.paths.registry_path import preferred
from cloned_proxy.policy.terms.address import AddressClass, classify
from cloned_proxy.policy.terms.decision import NO_NETWORKS, NetworkRules, Request
from cloned_proxy.policy.terms.exception import is_excepted
from cloned_proxy.policy.terms.rule import Host, Rule
from cloned_proxy.policy.terms.vocabulary import Reason

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


def by_rules(  # noqa: PLR0917  hot path, as `decide`
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


def networks_of(
    allowing: Sequence[Scope], denying: Sequence[Scope], now: float, ended: Collection[str]
) -> NetworkRules:
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


def _search(  # noqa: PLR0917  hot path, as `decide`
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
