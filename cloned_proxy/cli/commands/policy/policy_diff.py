"""What another policy file would change: rules that come and go, and every setting that opens or closes something."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from cloned_proxy.cli.editing.describe import rule_data, rule_text
from cloned_proxy.cli.show.output import iso_time, paint, visible
from cloned_proxy.policy.model.model import Policy, PolicyTest
from cloned_proxy.policy.terms.rule import Rule
from cloned_proxy.policy.terms.units import format_duration

type Settings = dict[str, list[Any]]
"""For each setting that differs: what it is, and what it would be."""

_UNNAMED: Final = ["the one in use", "another"]
"""For a value that may hold a secret: that it changes is told, what it says is not."""


@dataclass(frozen=True, slots=True)
class PolicyDiff:
    added: tuple[Rule, ...]
    removed: tuple[Rule, ...]
    settings: Settings

    def as_data(self) -> dict[str, Any]:
        return {
            "added": [rule_data(rule) for rule in self.added],
            "removed": [rule_data(rule) for rule in self.removed],
            "settings": self.settings,
        }

    def lines(self) -> Iterator[str]:
        """For people; none when there is no difference."""
        for name, (before, after) in self.settings.items():
            yield visible(f"~ {name}: {_shown(before)} -> {_shown(after)}")
        for sign, style, rules in (("-", "red", self.removed), ("+", "green", self.added)):
            for rule in rules:
                yield paint(visible(f"{sign} {_name(rule)}"), style)


def compare(old: Policy, new: Policy) -> PolicyDiff:
    """Rules are compared by id: one that only moved in the file is the same rule."""
    before, after = ({rule.id: rule for rule in policy.rules} for policy in (old, new))
    tools = tuple(dict.fromkeys((*old.tools, *new.tools)))
    settings = _changed(_settings(old, tools), _settings(new, tools))
    for rule_id, rule in before.items():
        if rule_id in after:
            settings |= _changed_terms(rule, after[rule_id])
    return PolicyDiff(
        added=tuple(rule for rule_id, rule in after.items() if rule_id not in before),
        removed=tuple(rule for rule_id, rule in before.items() if rule_id not in after),
        settings=settings | _changed_tests(old.tests, new.tests),
    )


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> Settings:
    return {name: [value, after[name]] for name, value in before.items() if value != after[name]}


def _settings(policy: Policy, tools: Iterable[str]) -> dict[str, Any]:
    """Every setting by its place in the file. A tool that the file does not name has the defaults."""
    found: dict[str, Any] = {"mode": policy.mode.value, "anonymous": policy.anonymous.value}
    for tool in tools:
        scope = policy.scope_of(tool)
        of_tool = {
            "mode": None if scope.mode is None else scope.mode.value,
            "inherit_global": scope.inherit_global,
            "on_deny": scope.on_deny.value,
            "hold": scope.hold,
            "may_request": sorted(scope.may_request),
            **{f"limits.{name}": bound for name, bound in asdict(scope.limits).items()},
        }
        found |= {f"tools.{tool}.{name}": value for name, value in of_tool.items()}
    return found


def _changed_terms(old: Rule, new: Rule) -> Settings:
    """What one and the same rule may say differently: it is not part of its id."""

    def terms(rule: Rule) -> dict[str, Any]:
        expires = None if rule.expires is None else iso_time(rule.expires)
        redact_echo = None if rule.inject is None else rule.inject.redact_echo
        return {
            "expires": expires,
            "max_uses": rule.max_uses,
            "idle": None if rule.idle is None else format_duration(rule.idle),
            "inject.redact_echo": redact_echo,
        }

    found = _changed(terms(old), terms(new))
    if old.inject is not None and new.inject is not None and old.inject.value != new.inject.value:
        found["inject.value"] = _UNNAMED
    return {f"{_name(new)}: {term}": values for term, values in found.items()}


def _changed_tests(old: tuple[PolicyTest, ...], new: tuple[PolicyTest, ...]) -> Settings:
    """The tests that would go, and those that would come."""

    def told(tests: Iterable[PolicyTest]) -> list[dict[str, Any]]:
        return [{"tool": test.tool, "allow": list(test.allow), "deny": list(test.deny)} for test in tests]

    before, after = told(old), told(new)
    gone, come = ([test for test in these if test not in those] for these, those in ((before, after), (after, before)))
    return {"tests": [gone, come]} if gone or come else {}


def _name(rule: Rule) -> str:
    return f"{rule.scope}: {rule_text(rule)}"


def _shown(value: Any) -> str:
    if value is None:
        return "not set"
    return value if isinstance(value, str) else json.dumps(value)
