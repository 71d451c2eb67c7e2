"""What has ended by itself may leave the file; what is in force by any clock, or is a deny, stays."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from cloned_proxy.store.audit.audit_log import AuditLog
from cloned_proxy.store.audit.database import open_database
from cloned_proxy.store.leases.ended_rules import LeaseUse, ended_since, is_over
from cloned_proxy.store.leases.lease_time import LeaseEnd
from cloned_proxy.store.policyfile.edit_service import EditService
from cloned_proxy.store.policyfile.policy_file import policy_from_bytes
from cloned_proxy.store.policyfile.tests_of_policy import ForbiddenByTestsError
from cloned_proxy.store.workspaces.workspace import Workspace

NOW = 1_000_000_000.0
DAY = 86_400.0


def _at(seconds: float) -> str:
    return datetime.fromtimestamp(NOW + seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


CASES = [
    pytest.param("{host: a.test}", {}, None, id="without an end"),
    pytest.param(f"{{host: a.test, expires: {_at(60)}}}", {}, None, id="a minute left"),
    pytest.param(f"{{host: a.test, expires: {_at(0)}}}", {}, NOW, id="this second"),
    pytest.param(f"{{host: a.test, expires: {_at(-60)}}}", {}, NOW - 60, id="a minute ago"),
    pytest.param(f"{{host: a.test, expires: {_at(60)}}}", {"left": 0.0}, NOW, id="ended by the time since boot"),
    pytest.param(f"{{host: a.test, expires: {_at(60)}}}", {"left": 0.0, "of": NOW + 30}, None, id="renewed since"),
    pytest.param("{host: a.test, max_uses: 3}", {"used": 2}, None, id="a use left"),
    pytest.param("{host: a.test, max_uses: 3}", {"used": 3, "last": NOW - 5}, NOW - 5, id="used up"),
    pytest.param("{host: a.test, max_uses: 3}", {"used": 4}, NOW, id="used up at an unknown time"),
    pytest.param(f"{{host: a.test, max_uses: 3, expires: {_at(60)}}}", {"used": 3}, NOW, id="used up before its time"),
]


@pytest.mark.parametrize(("entry", "known", "since"), CASES)
def test_when_a_rule_has_ended(entry: str, known: dict[str, float], since: float | None) -> None:
    policy = policy_from_bytes(f"version: 1\nglobal: {{allow: [{entry}]}}\n".encode(), source="p", now=NOW)
    (rule,) = policy.rules
    ends = {rule.id: LeaseEnd(rule.id, known.get("of", NOW + 60), known["left"], "b", 5.0)} if "left" in known else {}
    used = {rule.id: int(known["used"])} if "used" in known else {}
    use = LeaseUse(NOW, 5.0, "b", used, ends, {rule.id: known["last"]} if "last" in known else {})
    assert ended_since(rule, use) == since
    assert is_over(rule, use, by_itself=True) is (since is not None)
    assert is_over(rule, use, by_itself=True, seconds=3600) is False


TEXT = f"""\
version: 1
anonymous: global
global:
  allow:
    # for good
    - kept.test
    - {{host: gone.test, expires: {_at(-2 * DAY)}}}  # over for long
    - {{host: fresh.test, expires: {_at(-60)}}}
    - {{host: open.test, expires: {_at(60)}}}
  deny:
    - {{host: denied.test, expires: {_at(-2 * DAY)}}}
tools:
  demo@v1:
    allow: [{{host: tool.test, expires: {_at(-2 * DAY)}}}]
"""


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path / ".cloned")
    workspace.create()
    workspace.policy_file.write_text(TEXT)
    open_database(workspace.state_db).close()
    return workspace


def _service(place: Workspace) -> EditService:
    return EditService(place, place.policy_file, clock=lambda: NOW)


def test_what_has_ended_goes_and_the_rest_keeps_every_byte(place: Workspace) -> None:
    planned = _service(place).prune(actor="cli:me", dry_run=True)
    assert place.policy_file.read_text() == TEXT
    result = _service(place).prune(actor="cli:me")
    assert {str(rule.pattern) for rule in result.gone} == {"gone.test", "fresh.test", "denied.test", "tool.test"}
    assert planned.gone == result.gone
    left = place.policy_file.read_text()
    assert "    # for good\n    - kept.test\n    - {host: open.test" in left
    assert "deny: []" in left
    assert "allow: []" in left
    assert not _service(place).prune(actor="cli:me").changed


def test_without_a_word_only_allows_go_and_only_a_day_later(place: Workspace) -> None:
    result = _service(place).prune(actor="clock", after=DAY, by_itself=True)
    assert {str(rule.pattern) for rule in result.gone} == {"gone.test", "tool.test"}
    with AuditLog(place.state_db) as log:
        (entry,) = log.entries(types=("policy",))
    assert (entry.body["actor"], entry.body["summary"]) == (
        "clock", "prune 2 ended: allow gone.test (global), allow tool.test (demo@v1)",
    )  # fmt: skip
    assert _service(place).history()[0].actor == "clock"


def test_a_test_of_the_file_that_wants_what_has_ended_is_named_and_can_go_with_it(place: Workspace) -> None:
    place.policy_file.write_text(f"{TEXT}tests: [{{allow: ['https://gone.test/']}}]\n")
    with pytest.raises(ForbiddenByTestsError):
        _service(place).prune(actor="cli:me")
    assert _service(place).prune(actor="cli:me", update_tests=True).tests
