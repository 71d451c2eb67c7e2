"""The next step for someone who was denied: the exact command, or why there is none."""

from __future__ import annotations

import shlex
from functools import lru_cache
from typing import Final

from cloned_proxy.policy.model import DEFAULT_PORTS, GLOBAL_SCOPE, Decision, Host, Reason
from cloned_proxy.policy.offer import why_not_offered
from cloned_proxy.policy.path import parse_path_pattern

_SENTENCES: Final = {
    Reason.ADDRESS_NOT_ALLOWED: (
        "the host resolves to an address that is not public; if it is meant to be a host of your own network, "
        "put `addresses: [private]` into its rule (the proxy itself, metadata and multicast stay closed)"
    ),
    Reason.IDENTITY_MISSING: "send the tool's credential: `cloned-proxy token TOOL` prints one ready to export",
    Reason.IDENTITY_INVALID: "send the tool's own credential: `cloned-proxy token TOOL` prints one ready to export",
    Reason.IDENTITY_EXPIRED: "the credential has expired: `cloned-proxy token TOOL` prints a new one",
    Reason.IDENTITY_MISMATCH: "the credential belongs to another tool; use the one made for this tool",
    Reason.SNI_MISMATCH: "the TLS server name must be the host of the CONNECT",
    Reason.SNI_MISSING: "the client must send the host of the CONNECT as TLS server name",
    Reason.PROTOCOL_NOT_ALLOWED: "a tunnel carries TLS only, unless its rule says `protocols: [tcp]`",
    Reason.HOST_HEADER_MISMATCH: "the Host header must name the host of the request target",
    Reason.MALFORMED_REQUEST: "the request can be read in more than one way; write host, port and path plainly",
    Reason.LIMIT_EXCEEDED: "wait as Retry-After says, or raise `limits` of the tool in the policy",
    Reason.POLICY_UNAVAILABLE: "no valid policy is loaded: `cloned-proxy policy check` says why",
    Reason.INTERNAL_ERROR: "this is a fault of the proxy; its log says more",
}
ALLOWABLE: Final = frozenset(
    {
        Reason.HOST_NOT_ALLOWED,
        Reason.PORT_NOT_ALLOWED,
        Reason.METHOD_NOT_ALLOWED,
        Reason.PATH_NOT_ALLOWED,
        Reason.IP_LITERAL,
        Reason.LEASE_EXPIRED,
        Reason.LEASE_USED_UP,
    }
)


def hint(decision: Decision) -> str:
    """For `host_not_allowed` and the like the `cloned-proxy allow …` command, quoted for a shell; "" for a pass."""
    if decision.reason is Reason.ALLOWED:
        return ""
    if decision.host is not None and (never := why_not_offered(decision.host)):
        return never
    if decision.host is None and decision.reason is Reason.IP_LITERAL:
        return "write the address as four plain decimals, e.g. 192.0.2.1; other spellings are never allowed"
    if decision.reason is Reason.EXPLICIT_DENY and decision.rule is not None:
        return _remove(decision)
    if decision.reason in ALLOWABLE and decision.host is not None:
        return _allow(decision)
    return _SENTENCES.get(decision.reason, "")


def _remove(decision: Decision) -> str:
    rule = decision.rule
    if rule is None:
        return ""
    tool = None if rule.scope == GLOBAL_SCOPE else rule.scope
    return _command("remove", str(rule.pattern), *_tool(tool))


def allow_command(host: Host, port: int, tool: str | None) -> str:
    """The command that allows a host: on the default ports where `port` is one of them, and on `port` otherwise."""
    return _command(*_allow_words(host, port, tool))


def _allow_words(host: Host, port: int, tool: str | None) -> list[str]:
    target = host.authority if port in DEFAULT_PORTS else f"{host.authority}:{port}"
    return ["allow", target, *_tool(tool)]


def _allow(decision: Decision) -> str:
    host, request = decision.host, decision.request
    if host is None:
        return ""
    words = _allow_words(host, request.port, decision.tool)
    if decision.reason in (Reason.METHOD_NOT_ALLOWED, Reason.PATH_NOT_ALLOWED) and request.method is not None:
        path = (request.path or "/").partition("?")[0]
        if not _can_stand_in_a_rule(request.method, path):
            return _SENTENCES[Reason.MALFORMED_REQUEST]
        words += ["--method", request.method, "--path", path]
    return _command(*words)


@lru_cache(maxsize=512)  # a tool that is denied asks for the same again, and each denial needs it twice
def _command(*words: str) -> str:
    return shlex.join(("cloned-proxy", *words))


def _can_stand_in_a_rule(method: str, path: str) -> bool:
    """Whether a rule could ever allow this; a path with a star in it would allow more than was asked."""
    try:
        parse_path_pattern(path)
    except ValueError:
        return False
    return "*" not in path and method.isupper() and method != "CONNECT"


def _tool(tool: str | None) -> list[str]:
    return [] if tool is None else ["--tool", tool]
