"""Rules as data and as table rows."""

from __future__ import annotations

import time
from typing import Any

from cloned_proxy.cli.durations import format_seconds
from cloned_proxy.cli.output import iso_time
from cloned_proxy.policy.model import Rule

HEADINGS = ("ID", "SCOPE", "RULE", "EXPIRES", "USES LEFT", "LAST HIT", "ORIGIN")


def rule_data(rule: Rule, *, used: int = 0, last_hit: float | None = None) -> dict[str, Any]:
    """Every field of a rule under the name that the policy file has for it, and what the state knows of its use."""
    return {
        "id": rule.id,
        "scope": rule.scope,
        "action": "deny" if rule.denies else "allow",
        "host": str(rule.pattern),
        "ports": None if rule.denies else sorted(rule.ports),
        "methods": sorted(rule.methods) if rule.methods is not None else None,
        "paths": [path.text for path in rule.paths] if rule.paths is not None else None,
        "protocols": ["tcp"] if rule.raw_tcp else None,
        "addresses": ["private"] if rule.private_addresses else None,
        "expires": iso_time(rule.expires) if rule.expires is not None else None,
        "max_uses": rule.max_uses,
        "uses_left": max(0, rule.max_uses - used) if rule.max_uses is not None else None,
        "reason": rule.reason,
        "origin": rule.origin,
        "last_hit": iso_time(last_hit) if last_hit is not None else None,
    }


def rule_row(rule: Rule, *, used: int = 0, last_hit: float | None = None) -> tuple[str, ...]:
    """One line of `list`, under HEADINGS."""
    now = time.time()
    expires = "never"
    if rule.expires is not None:
        expires = "expired" if rule.expires <= now else f"in {format_seconds(rule.expires - now)}"
    uses = "-" if rule.max_uses is None else str(max(0, rule.max_uses - used))
    hit = "never" if last_hit is None else f"{format_seconds(now - last_hit)} ago"
    return (rule.id, rule.scope, rule_text(rule), expires, uses, hit, rule.origin)


def rule_text(rule: Rule) -> str:
    """One line: `allow api.example.com:8443 GET,HEAD /repos/**`."""
    parts = ["deny" if rule.denies else "allow", str(rule.pattern)]
    if not rule.denies and sorted(rule.ports) != [80, 443]:
        parts[1] += ":" + ",".join(str(port) for port in sorted(rule.ports))
    if rule.methods is not None:
        parts.append(",".join(sorted(rule.methods)))
    if rule.paths is not None:
        parts.append(",".join(path.text for path in rule.paths))
    if rule.raw_tcp:
        parts.append("tcp")
    if rule.private_addresses:
        parts.append("private")
    return " ".join(parts)
