"""Rules as data and as table rows."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cloned_proxy.cli.show.output import VERDICT_STYLES, iso_time, short_path
from cloned_proxy.cli.show.tables import Cell, Row, passed
from cloned_proxy.policy.terms.rule import HostPattern, PatternKind, Rule
from cloned_proxy.policy.terms.units import format_duration, rounded_duration
from cloned_proxy.policy.terms.vocabulary import GLOBAL_SCOPE
from cloned_proxy.store.policyfile.rule_use import NOTHING_USED, RuleUse

HEADINGS = ("ID", "SCOPE", "RULE", "EXPIRES", "USES LEFT", "HITS", "LAST HIT", "ORIGIN")


def rule_data(rule: Rule, use: RuleUse = NOTHING_USED) -> dict[str, Any]:
    """Every field of a rule under the name that the policy file has for it, and what the state knows of its use."""
    return {
        "id": rule.id,
        "scope": rule.scope,
        "action": "deny" if rule.denies else "allow",
        "host": str(rule.pattern),
        "kind": rule.pattern.kind.name.lower(),
        "ports": None if rule.denies else sorted(rule.ports),
        "methods": sorted(rule.methods) if rule.methods is not None else None,
        "paths": [path.text for path in rule.paths] if rule.paths is not None else None,
        "protocols": rule.protocols,
        "addresses": sorted(rule.addresses) or None,
        "except": [str(exception) for exception in rule.exceptions] or None,
        "inject": injected(rule),
        "registry": None if rule.registry is None else rule.registry.as_value(),
        "expires": _time(rule.expires),
        "max_uses": rule.max_uses,
        "idle": None if rule.idle is None else format_duration(rule.idle),
        "seconds_left": None if (left := use.left(rule)) is None else max(0, round(left)),
        "uses_left": max(0, rule.max_uses - use.used(rule)) if rule.max_uses is not None else None,
        "reason": rule.reason,
        "origin": rule.origin,
        "hits": use.hit_count(rule),
        "last_hit": _time(use.last_hit(rule)),
        "since": _time(use.seen.get(rule.id)),
    }


def rule_row(rule: Rule, use: RuleUse, policy_file: Path) -> Row:
    """One line of `list`, under HEADINGS. For a person the lease is one value, and what never happened is left out."""
    expires, terms = "never", []
    if (left := use.left(rule)) is not None:
        expires = "expired" if left <= 0 else f"in {rounded_duration(left)}"
        terms.append("expired" if left <= 0 else rounded_duration(left).partition(" ")[0])
    uses = "-"
    if rule.max_uses is not None:
        uses = str(max(0, rule.max_uses - use.used(rule)))
        terms.append(f"{uses} use{'' if uses == '1' else 's'}")
    last_hit = use.last_hit(rule)
    hit = "never" if last_hit is None else f"{rounded_duration(time.time() - last_hit)} ago"
    return (
        rule.id,
        rule.scope,
        Cell(rule_text(rule), style=VERDICT_STYLES["deny" if rule.denies else "allow"]),
        Cell(expires, ", ".join(terms), "yellow"),
        Cell(uses, ""),
        str(use.hit_count(rule)),
        Cell(hit, "" if last_hit is None else passed(last_hit)),
        _origin(rule, policy_file),
    )


def _origin(rule: Rule, policy_file: Path) -> Cell:
    """Where the rule is written. For a person, who was told the policy file above, its line is enough."""
    file, _, _ = rule.origin.rpartition(" ")
    line = file.removeprefix(f"{policy_file}:")
    return Cell(short_path(rule.origin), f"line {line}" if line != file else short_path(file))


def removal(rule: Rule, others: Iterable[Rule]) -> str:
    """The command that takes this rule back, and none of the `others`."""
    shares = any(other.scope == rule.scope and other.pattern == rule.pattern for other in others)
    if shares:
        return shlex.join(["cloned-proxy", "remove", rule.id])
    tool = [] if rule.scope == GLOBAL_SCOPE else ["--tool", rule.scope]
    named = rule.id if rule.pattern.kind is PatternKind.PUBLIC else str(rule.pattern)
    return shlex.join(["cloned-proxy", "remove", named, *tool])


def injected(rule: Rule) -> str | None:
    """The header that the rule adds. Not its value: that names secrets, and may hold text that is one."""
    return None if rule.inject is None else rule.inject.header


def _time(at: float | None) -> str | None:
    return None if at is None else iso_time(at)


def _target(pattern: HostPattern) -> str:
    if pattern.kind is PatternKind.PUBLIC:
        return f"THE WHOLE PUBLIC INTERNET ({pattern})"
    is_ipv6_network = pattern.kind is PatternKind.CIDR and ":" in pattern.value
    return f"[{pattern}]" if is_ipv6_network else str(pattern)


def rule_text(rule: Rule) -> str:
    """One line: `allow api.example.com:8443 GET,HEAD /repos/**`."""
    parts = ["deny" if rule.denies else "allow", _target(rule.pattern)]
    if not rule.denies and sorted(rule.ports) != [80, 443]:
        parts[1] += ":" + ",".join(str(port) for port in sorted(rule.ports))
    if rule.methods is not None:
        parts.append(",".join(sorted(rule.methods)))
    if rule.paths is not None:
        parts.append(",".join(path.text for path in rule.paths))
    parts += rule.protocols or ()
    parts += sorted(rule.addresses)
    if rule.exceptions:
        parts.append(f"except {','.join(map(str, rule.exceptions))}")
    if header := injected(rule):
        parts.append(f"inject {header}")
    if rule.registry is not None:
        parts.append(f"registry {rule.registry.in_words()}")
    if rule.idle is not None:
        parts.append(f"idle {format_duration(rule.idle)}")
    return " ".join(parts)
