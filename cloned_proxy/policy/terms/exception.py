"""`except:` of a deny: what below its pattern it leaves to the other rules."""

from __future__ import annotations

from cloned_proxy.policy.terms.host import parse_pattern
from cloned_proxy.policy.terms.network import is_network, network_of, parse_network
from cloned_proxy.policy.terms.rule import Host, HostPattern, PatternKind, Rule


def parse_exception(denied: HostPattern, text: str) -> HostPattern:
    """An entry of `except:` under a deny of `denied`. Raises ValueError with the fix in its message."""
    if not (denied.is_wildcard or denied.kind is PatternKind.CIDR):
        raise ValueError(f"'except' is for a deny of many hosts, and {denied} is one; take the deny out instead")
    exception = parse_network(text, denies=True) if is_network(text) else parse_pattern(text)
    if not _is_below(exception, denied):
        raise ValueError(f"{text!r} is not below {denied}, so it excepts nothing; take it out")
    return exception


def _is_below(exception: HostPattern, denied: HostPattern) -> bool:
    if denied.kind is PatternKind.CIDR:
        if exception.kind not in (PatternKind.CIDR, PatternKind.ADDRESS):
            return False
        inner, outer = network_of(exception), network_of(denied)
        return inner.network_address in outer and inner.prefixlen > outer.prefixlen
    if exception.kind is PatternKind.EXACT:
        return covers(denied, Host(exception.value))
    # `*.a.example.com` is below `**.example.com`, and no wildcard is below `*.example.com`.
    inside = exception.value == denied.value or exception.value.endswith(f".{denied.value}")
    return exception.is_wildcard and denied.kind is PatternKind.ANY_DEPTH and inside and exception != denied


def covers(pattern: HostPattern, host: Host) -> bool:
    """Whether one pattern covers a host; for the rules of a list there is `HostIndex`."""
    below = host.text.endswith(f".{pattern.value}")
    match pattern.kind:
        case PatternKind.EXACT | PatternKind.ADDRESS:
            return host.text == pattern.value
        case PatternKind.ONE_LABEL:
            return host.address is None and host.text.partition(".")[2] == pattern.value
        case PatternKind.ANY_DEPTH:
            return host.address is None and below
        case PatternKind.CIDR:
            return host.address is not None and host.address in network_of(pattern)
        case PatternKind.PUBLIC:
            return False


def is_excepted(rule: Rule, host: Host) -> bool:
    """Whether a deny leaves this host, which its pattern covers, to the other rules."""
    return any(covers(exception, host) for exception in rule.exceptions)
