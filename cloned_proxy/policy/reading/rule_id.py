"""What makes two rules the same one: its id, which survives a move in the file and a renewed lease."""

from __future__ import annotations

import hashlib

from cloned_proxy.policy.reading.documents import RuleDocument
from cloned_proxy.policy.terms.rule import HostPattern, PathPattern
from cloned_proxy.policy.terms.vocabulary import DEFAULT_PORTS


def details_of(
    ports: frozenset[int],
    methods: frozenset[str] | None,
    paths: tuple[PathPattern, ...] | None,
    read: RuleDocument,
    *,
    protocol: str,
) -> str:
    """What makes an allow rule differ from the plain one for its host; "" for the plain one."""
    parts: list[object] = []
    if ports != DEFAULT_PORTS:
        parts.append(["ports", *sorted(ports)])
    if methods is not None:
        parts.append(["methods", *sorted(methods)])
    if paths is not None:
        parts.append(["paths", *sorted(pattern.text for pattern in paths)])
    if protocol:
        parts.append(protocol)
    parts += sorted(set(read.addresses or ()))
    if read.inject is not None:
        parts.append(["inject", read.inject.header.lower()])
    if (registry := read.registry) is not None:
        parts.append(["registry", registry.kind, registry.min_age, registry.index, *sorted(registry.allow)])
    return repr(parts) if parts else ""


def deny_details_of(paths: tuple[PathPattern, ...] | None, exceptions: tuple[HostPattern, ...]) -> str:
    """What makes a deny differ from the plain one for its host; "" for the plain one."""
    parts: list[list[str]] = []
    if paths is not None:
        parts.append(["paths", *sorted(pattern.text for pattern in paths)])
    if exceptions:
        parts.append(["except", *sorted(map(str, exceptions))])
    return repr(parts) if parts else ""


def rule_id(scope: str, pattern: HostPattern, *, denies: bool, details: str = "") -> str:
    """See `Rule.id`; `details` is what `details_of` says."""
    text = f"{scope}\n{'deny' if denies else 'allow'}\n{pattern.kind.value}\n{pattern.value}\n{details}"
    return "r-" + hashlib.sha256(text.encode()).hexdigest()[:10]
