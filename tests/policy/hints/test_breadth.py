"""Rules that are wider than they look are told, each with what would be narrower; ordinary ones are not."""

from __future__ import annotations

import pytest

from cloned_proxy.policy.hints.breadth import findings
from cloned_proxy.policy.reading.parse import parse_policy

INJECT = {"header": "X-Key", "value": "${vault:key}"}
WIDE = [
    ({"host": "**.amazonaws.com"}, "covers names that strangers register (s3"),
    ({"host": "*.amazonaws.com"}, "amazonaws.com is a public suffix"),
    ({"host": "*.corp.example", "addresses": ["private"]}, "opens them for every name below"),
    ({"host": "*.corp.example", "ports": [443], "inject": INJECT}, "sends the injected X-Key to every host below"),
    ({"host": "**.corp.example", "protocols": ["tcp"]}, "lets anything pass to every host below"),
    ({"host": "api.example.com", "ports": [443], "inject": INJECT}, "for callers without a credential"),
    ({"host": "169.254.169.254"}, "metadata service"),
    ({"host": "api.example.com", "ports": list(range(1, 1001))}, "opens 1000 ports"),
]
ORDINARY = [
    {"host": "api.example.com"},
    {"host": "*.example.com"},
    {"host": "**.githubusercontent.example"},
    {"host": "git.corp.example", "addresses": ["private"]},
    {"host": "db.corp.example", "ports": [5432], "protocols": ["tcp"]},
    {"host": "127.0.0.1", "ports": [8080]},
]


def _told(entry: dict[str, object], **head: object) -> list[str]:
    document = {"version": 1, "anonymous": "global", **head, "global": {"allow": [entry]}}
    return [str(finding) for finding in findings(parse_policy(document, source="p.yaml", version="", lines={}))]


@pytest.mark.parametrize(("entry", "words"), WIDE)
def test_what_is_wide_is_told_with_its_place(entry: dict[str, object], words: str) -> None:
    assert any(words in finding for finding in _told(entry))
    assert all(finding.startswith("p.yaml:1 global.allow[0]: ") for finding in _told(entry))


@pytest.mark.parametrize("entry", ORDINARY)
def test_what_is_ordinary_is_not(entry: dict[str, object]) -> None:
    assert _told(entry) == []


def test_a_secret_of_the_global_rules_is_fine_where_everybody_has_a_credential() -> None:
    entry: dict[str, object] = {"host": "api.example.com", "ports": [443], "inject": INJECT}
    assert _told(entry, anonymous="deny") == []


def test_report_mode_is_told_for_the_policy_and_for_each_tool() -> None:
    assert "lets everything pass" in _told({"host": "a.example.com"}, mode="report")[0]
    policy = {"version": 1, "tools": {"demo@v1": {"mode": "report"}, "other@v1": {}}}
    (finding,) = findings(parse_policy(policy, source="p.yaml", version="", lines={}))
    assert finding.place == "p.yaml tools.demo@v1"
