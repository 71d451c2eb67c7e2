"""Rules that are accepted and that `doctor` speaks of, and those that it must not cry wolf about."""

from __future__ import annotations

import pytest

from cloned_proxy.policy.breadth import wide_rules
from tests.policy.tables import policy_of

TOOL = "demo@v1"
SECRET = {"header": "Authorization", "value": "Bearer ${vault:k}"}
WIDE = [
    (TOOL, {"host": "*.example.com", "ports": [443], "inject": SECRET}, "its secret goes to every name"),
    (TOOL, {"host": "*.example.com", "addresses": ["private"]}, "your own network"),
    (TOOL, {"host": "**.example.com", "ports": [22], "protocols": ["tcp"]}, "any protocol goes"),
    ("global", {"host": "a.example.com", "ports": [443], "inject": SECRET}, "uses its secret"),
    ("global", {"host": "a.example.com", "ports": [22], "protocols": ["tcp"]}, "any protocol is open"),
    ("global", "**.example.com", "every name that **.example.com covers"),
]
NARROW = [
    (TOOL, "a.example.com"),
    (TOOL, "**.example.com"),
    ("global", "*.example.com"),
    (TOOL, {"host": "a.example.com", "ports": [443], "inject": SECRET}),
    (TOOL, {"host": "10.0.0.1", "ports": [22], "protocols": ["tcp"]}),
    (TOOL, {"host": "a.example.com", "addresses": ["private"]}),
]


def found(scope: str, entry: object, action: str = "allow") -> list[str]:
    section = {"global": {action: [entry]}} if scope == "global" else {"tools": {scope: {action: [entry]}}}
    return [wide.why for wide in wide_rules(policy_of(version=1, **section))]


@pytest.mark.parametrize(("scope", "entry", "why"), WIDE)
def test_a_wide_rule_is_named_with_what_it_opens(scope: str, entry: object, why: str) -> None:
    (told,) = found(scope, entry)
    assert why in told


@pytest.mark.parametrize(("scope", "entry"), NARROW)
def test_a_narrow_rule_is_not(scope: str, entry: object) -> None:
    assert found(scope, entry) == []


def test_a_deny_cannot_be_too_wide() -> None:
    assert found("global", "**.example.com", "deny") == []
