"""The next step for someone who was denied: the exact command, or why there is none."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Final

from cloned_proxy.policy.hints.hint_registry import registry_hint
from cloned_proxy.policy.hints.offer import why_not_offered
from cloned_proxy.policy.paths.path_shape import plain_path
from cloned_proxy.policy.terms.address import OPENED_BY, classify
from cloned_proxy.policy.terms.decision import Decision
from cloned_proxy.policy.terms.http_token import METHOD
from cloned_proxy.policy.terms.reasons import MENDABLE, REASONS
from cloned_proxy.policy.terms.rule import Host
from cloned_proxy.policy.terms.vocabulary import DEFAULT_PORTS, GLOBAL_SCOPE, SSH_PORT, Reason

MANY_DENIALS: Final = "too many refused calls in a minute (`denials_per_minute`): ask for nothing that is refused"


def hint(decision: Decision, decision_id: str = "") -> str:
    """For a program of this host that was denied; for a tool in a sandbox there is `hint_inside`.

    As `owner_hint`, but for an address that was not in the request, or the class of one, and for a secret's name.
    """
    if decision.instead_of is not None:
        return _with_or_without_credential(hint(_as_refused(decision), decision_id))
    look = f"cloned-proxy explain {decision_id}" if decision_id else "cloned-proxy log --denied"
    if decision.reason is Reason.SECRET_LEAK:
        return f"the request holds a secret that is not for this host: {look}"
    literal = decision.host is not None and decision.host.address is not None
    # A deny of the network that the name resolves into says no more: which one it is, only the log tells.
    about_address = decision.reason is Reason.ADDRESS_NOT_ALLOWED or decision.refused_address is not None
    if about_address and _needs_its_own_rule(decision):
        return f"only a rule with the exact name opens it: {look}"
    if about_address and not literal:
        return f"the name resolves to an address that the policy does not open: {look}"
    return owner_hint(decision)


def owner_hint(decision: Decision) -> str:  # noqa: PLR0911  a table of cases
    """For `host_not_allowed` and the like the `cloned-proxy allow …` command, quoted for a shell; "" for a pass.

    For the owner of the policy and the log: it may name an address that the caller did not send.
    """
    if decision.reason is Reason.ALLOWED:
        return ""
    if decision.instead_of is not None:
        return _with_or_without_credential(owner_hint(_as_refused(decision)))
    if decision.host is not None and (never := why_not_offered(decision.host)):
        return never
    if decision.host is None and decision.reason is Reason.IP_LITERAL:
        return REASONS[Reason.IP_LITERAL].hint
    if decision.reason is Reason.EXPLICIT_DENY and decision.rule is not None:
        return _remove(decision)
    if decision.reason in MENDABLE and decision.host is not None:
        return _allow(decision)
    if told := registry_hint(decision):
        return told
    words = _WORDED.get(decision.reason)
    return words(decision) if words else REASONS[decision.reason].hint


def _leak(decision: Decision) -> str:
    named = f"the vault's {decision.secret}" if decision.secret else "a secret of the vault"
    return f"the request holds {named}, which goes only to hosts of rules that inject it; find out who sends it"


def _as_refused(decision: Decision) -> Decision:
    """What the global rules said of a caller that was asked for its credential."""
    return replace(decision, reason=decision.instead_of or decision.reason, instead_of=None)


def _with_or_without_credential(without: str) -> str:
    return f"{REASONS[Reason.IDENTITY_MISSING].hint}; without one: {without}"


def _open_address(decision: Decision) -> str:  # noqa: PLR0911  a table of cases
    """How the rule comes to open the address that refused the name, or why no rule can."""
    host, address, rule = decision.host, decision.refused_address, decision.rule
    if host is not None and _needs_its_own_rule(decision):
        own = _command("allow", f"{host.authority}:{decision.request.port}", *_tool(decision.tool))
        return f"the proxy in front looks the name up, or is it: only a rule with its exact name opens it: {own}"
    if host is None or address is None:
        return "the name has no address"
    kind = classify(address)
    told = f"{host.text} resolves to {address} ({kind.value.replace('_', '-')})"
    word = OPENED_BY.get(kind)
    if word is None:
        return f"{told}; no rule opens that class"
    opened = frozenset() if rule is None or rule.denies else rule.addresses
    if word in opened or address.is_unspecified or host.address is not None:
        if decision.names_its_host:
            return f"{told}, where this proxy itself listens; it never dials itself"
        return f"{told}, where this proxy listens, or the one in front, which only a rule with its exact name opens"
    if rule is not None and not rule.denies and (rule.inject is not None or rule.is_lease):
        return f"{told}; put `addresses: [{', '.join(sorted({word, *opened}))}]` into its rule ({rule.origin})"
    return _again(decision, *(f"--{each}" for each in sorted({word, *opened})))


def _needs_its_own_rule(decision: Decision) -> bool:
    """Whether a name without an address here was refused because a pattern, or `public: true`, covers it alone.

    Under `resolve: upstream` nothing is known of its addresses: `proxy.upstream.places`.
    """
    allowed = decision.rule is not None and not decision.rule.denies
    return allowed and decision.refused_address is None and not decision.names_its_host


def _other_protocol(decision: Decision) -> str:
    if decision.request.method is not None and decision.host is not None:  # of a rule for this port, no tunnel
        asked = _command("allow", target_of(decision.host, decision.request.port), *_tool(decision.tool))
        return f"its rule lets SSH pass, and nothing else; for HTTP: {asked}"
    if decision.rule is not None and decision.rule.only_ssh:
        return f"its rule lets SSH pass, and nothing else; for anything else: {_again(decision, '--tcp')}"
    if decision.request.port == SSH_PORT:
        return f"a tunnel carries TLS only; for SSH: {_again(decision, '--ssh')}"
    return f"a tunnel carries TLS only; for anything else: {_again(decision, '--tcp')}"


def _again(decision: Decision, *options: str) -> str:
    """The command for the rule that allows this host, with more than it says now."""
    host, rule = decision.host, decision.rule
    if host is None:
        return ""
    if rule is None or rule.denies:
        return _command("allow", target_of(host, decision.request.port), *_tool(decision.tool), *options)
    words = [host.authority]
    if len(rule.ports) == 1:
        words[0] += f":{min(rule.ports)}"
    elif rule.ports != DEFAULT_PORTS:
        words += [f"--port={port}" for port in sorted(rule.ports)]
    words += _tool(decision.tool)
    words += [f"--method={method}" for method in sorted(rule.methods or ())]
    words += [f"--path={path.text}" for path in rule.paths or ()]
    words += [f"--{name}" for name in rule.protocols or () if "--tcp" not in options]
    return _command("allow", *words, *options)


def target_of(host: Host, port: int) -> str:
    """The host as a command takes it: with its port where that is none of those that a rule opens by default."""
    return host.authority if port in DEFAULT_PORTS else f"{host.authority}:{port}"


def _remove(decision: Decision) -> str:
    rule = decision.rule
    if rule is None:
        return ""
    if rule.paths is not None or rule.exceptions:
        return _command("remove", rule.id)
    tool = None if rule.scope == GLOBAL_SCOPE else rule.scope
    return _command("remove", str(rule.pattern), *_tool(tool))


def allow_command(host: Host, port: int, tool: str | None) -> str:
    """The command that allows a host: on the default ports where `port` is one of them, and on `port` otherwise."""
    return _command("allow", target_of(host, port), *_tool(tool), *_ssh(port))


def _allow(decision: Decision) -> str:
    host, request = decision.host, decision.request
    if host is None:
        return ""
    words = ["allow", target_of(host, request.port), *_tool(decision.tool)]
    if decision.reason in (Reason.METHOD_NOT_ALLOWED, Reason.PATH_NOT_ALLOWED) and request.method is not None:
        path = (request.path or "/").partition("?")[0]
        if request.method == "CONNECT" or METHOD.fullmatch(request.method) is None or not plain_path(path):
            return REASONS[Reason.MALFORMED_REQUEST].hint
        words += ["--method", request.method, "--path", path]
    return _command(*words, *(_ssh(request.port) if request.method is None else ()))


@lru_cache(maxsize=512)  # a tool that is denied asks for the same again, and each denial needs it twice
def _command(*words: str) -> str:
    return shlex.join(("cloned-proxy", *words))


def _ssh(port: int) -> list[str]:
    """What is refused on that port would be refused again as no TLS, if its rule did not say so."""
    return ["--ssh"] if port == SSH_PORT else []


def _tool(tool: str | None) -> list[str]:
    return [] if tool is None else ["--tool", tool]


_WORDED: Final[Mapping[Reason, Callable[[Decision], str]]] = {
    Reason.ADDRESS_NOT_ALLOWED: _open_address,
    Reason.PROTOCOL_NOT_ALLOWED: _other_protocol,
    Reason.SECRET_LEAK: _leak,
}
"""The reasons whose hint depends on more than the reason."""
