"""A tool asks, a person decides: the policy file changes then, and only then."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from cloned_proxy.policy.reading.parse import PolicyError
from cloned_proxy.store.approvals.approval import Proposal
from cloned_proxy.store.approvals.approval_errors import (
    ApprovalError,
    DecidedError,
    NeverAllowedError,
    NotAllowedToAskError,
    TooManyRequestsError,
    UnknownApprovalError,
)
from cloned_proxy.store.audit.audit_log import AuditLog
from cloned_proxy.store.policyfile.policy_entry import Entry
from cloned_proxy.store.policyfile.policy_file import load_policy
from cloned_proxy.store.settings.config import ApprovalSettings
from tests.store.asking import ACTOR, NOW, OTHER, TOOL, Scene, asks


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "ws")


def test_asking_changes_nothing_and_a_yes_adds_exactly_the_rule(scene: Scene) -> None:
    before = scene.file()
    asked = scene.ask("api.example.com", for_seconds=60.0, uses=5, reason="to look things up")
    assert scene.file() == before
    assert scene.service().list("pending") == [asked]
    granted = scene.service().approve(asked.id, actor=ACTOR, reason="fine")
    (rule,) = load_policy(scene.policy_file, scene.now).scope_of(TOOL).allow.rules
    assert str(rule.pattern) == "api.example.com"
    assert (rule.expires, rule.max_uses) == (NOW + 60, 5)
    assert rule.reason == f"request {asked.id}: fine"
    assert granted.approval.rule_ids == (rule.id,)
    assert granted.approval == scene.service().get(asked.id)
    assert granted.approval.state == "approved"
    assert scene.steps() == [("asked", f"tool:{TOOL}"), ("approved", ACTOR)]


def test_a_no_and_a_timeout_leave_the_policy_as_it_is_byte_for_byte(scene: Scene) -> None:
    before = scene.file()
    rejected, late = scene.ask("a.example.com"), scene.ask("b.example.com")
    scene.service().reject(rejected.id, actor=ACTOR, reason="no")
    scene.pass_time(899)
    assert scene.service().expire() == 0
    scene.pass_time(1)
    assert scene.service().get(late.id).state == "expired"
    assert scene.service().expire() == 1
    assert scene.file() == before
    assert scene.service().list("pending") == []
    assert scene.steps()[2:] == [("rejected", ACTOR), ("expired", "clock")]
    for gone in (rejected, late):
        with pytest.raises(DecidedError):
            scene.service().approve(gone.id, actor=ACTOR)
    assert scene.file() == before


def test_the_reviewer_may_shorten_it(scene: Scene) -> None:
    asked = scene.ask("api.example.com")
    scene.service().approve(asked.id, actor=ACTOR, for_seconds=30, uses=1)
    (rule,) = load_policy(scene.policy_file, scene.now).scope_of(TOOL).allow.rules
    assert (rule.expires, rule.max_uses) == (NOW + 30, 1)


def test_a_deny_can_be_asked_for_everybody_where_the_policy_lets_it(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "ws", f"version: 1\ntools:\n  {TOOL}: {{may_request: [global]}}\n")
    asked = scene.ask("evil.example.com", tool=None, action="deny")
    scene.service().approve(asked.id, actor=ACTOR)
    (rule,) = load_policy(scene.policy_file, scene.now).global_scope.deny.rules
    assert str(rule.pattern) == "evil.example.com"


def test_the_same_request_is_one_and_counts(scene: Scene) -> None:
    first = scene.ask("API.Example.com.", "b.example.com")
    second = scene.ask("b.example.com", "api.example.com", reason="again")
    assert second.id == first.id
    assert second.denied_count == 2
    assert scene.ask("b.example.com").id != first.id
    assert scene.service().ask(TOOL, asks("api.example.com", "b.example.com"), count=7).denied_count == 9
    assert scene.steps() == [("asked", f"tool:{TOOL}")] * 2
    scene.service().reject(first.id, actor=ACTOR)
    assert scene.ask("api.example.com", "b.example.com").id != first.id


@pytest.mark.parametrize(
    "host", ["b\u200b.example.com", "b\u00ad.example.com", "\uff42.example.com", "b.example.com\u3002"]
)
def test_a_host_is_shown_and_recorded_without_what_nobody_sees(scene: Scene, host: str) -> None:
    asked = scene.ask(host)
    assert [entry.host for entry in asked.entries] == ["b.example.com"]
    with AuditLog(scene.workspace.state_db) as log:
        (step,) = log.entries(types=("approval",))
    assert step.body["summary"] == f"allow b.example.com for {TOOL}"


def test_denied_calls_of_one_host_and_port_are_one_request(scene: Scene) -> None:
    service = scene.service()

    def denied(path: str, port: int = 80) -> str:
        proposal = Proposal((Entry("api.example.com", (port,), ("GET",), (path,)),), TOOL)
        return service.ask(TOOL, proposal, origin="denied").id

    assert denied("/a") == denied("/b")
    assert denied("/a", 8080) != denied("/a")


def test_new_requests_are_limited_and_repeated_ones_are_not(scene: Scene) -> None:
    scene.settings = ApprovalSettings(requests_per_minute=3)
    for number in range(3):
        scene.ask(f"h{number}.example.com")
    with pytest.raises(TooManyRequestsError) as refused:
        scene.ask("h3.example.com")
    assert refused.value.retry_after == 60
    assert scene.ask("h1.example.com").denied_count == 2
    scene.service().ask(OTHER, asks("h0.example.com", tool=OTHER))  # another tool's limit is its own
    scene.pass_time(60)
    scene.ask("h3.example.com")


def test_what_waits_for_a_person_is_bounded(scene: Scene) -> None:
    scene.settings = ApprovalSettings(pending_per_tool=2, pending=3)
    scene.ask("h0.example.com")
    scene.ask("h1.example.com")
    with pytest.raises(TooManyRequestsError, match=f"2 requests of {TOOL} wait"):
        scene.ask("h2.example.com")
    scene.service().ask(OTHER, asks(tool=OTHER))
    with pytest.raises(TooManyRequestsError, match="3 requests wait"):
        scene.service().ask("third@v1", asks(tool="third@v1"))


PERMISSIONS = [
    pytest.param(None, TOOL, True, id="itself, by default"),
    pytest.param(None, OTHER, False, id="another tool, by default"),
    pytest.param(None, None, False, id="everybody, by default"),
    pytest.param("[global]", None, True, id="everybody, named"),
    pytest.param("[global]", TOOL, False, id="itself, not named"),
    pytest.param(f"[self, {OTHER}]", OTHER, True, id="another tool, named"),
    pytest.param(f"['{TOOL}']", TOOL, True, id="itself, named by its id"),
    pytest.param("[]", TOOL, False, id="nobody"),
]


@pytest.mark.parametrize(("may", "tool", "allowed"), PERMISSIONS)
def test_a_tool_asks_for_whom_the_policy_says(tmp_path: Path, may: str | None, tool: str | None, allowed: bool) -> None:
    line = "" if may is None else f"tools:\n  {TOOL}: {{may_request: {may}}}\n"
    scene = Scene(tmp_path / "ws", f"version: 1\n{line}")
    if allowed:
        assert scene.ask(tool=tool).tool == tool
        return
    with pytest.raises(NotAllowedToAskError, match="may_request"):
        scene.ask(tool=tool)
    assert scene.service().list() == []


def test_may_request_names_tools_that_can_exist(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "ws", f"version: 1\ntools:\n  {TOOL}: {{may_request: ['*']}}\n")
    with pytest.raises(PolicyError, match="write self, global or a tool id"):
        scene.ask()


NEVER = [
    pytest.param("*", "would allow every host", id="everything"),
    pytest.param("*.com", "too broad", id="a public suffix"),
    pytest.param("**.co.uk", "too broad", id="a public suffix of two labels"),
    pytest.param("https://example.com/", "holds a scheme", id="a URL"),
    pytest.param("0x7f.1", "ends in a number|plain decimals|IP address", id="another spelling of an address"),
    pytest.param("exa mple.com", "holds a space", id="a space"),
    pytest.param("example.com\nglobal:\n  allow: [evil.test]", "holds a space", id="YAML"),
    pytest.param("x.com, evil.test]", "holds a space", id="YAML in one line"),
    pytest.param("\x1b[2Jexample.com", "regular expression|no host name", id="terminal control characters"),
    pytest.param("169.254.169.254", "metadata address", id="the metadata service"),
    pytest.param("fd00:ec2::254", "metadata address", id="the metadata service, IPv6"),
    pytest.param("169.254.1.1", "link-local address", id="link-local"),
    pytest.param("::ffff:127.0.0.1", "embedded-ipv4 address", id="IPv4 in IPv6"),
    pytest.param("0.0.0.0", "reserved address", id="this machine"),
    pytest.param("224.0.0.1", "multicast address", id="multicast"),
    pytest.param("cloned.internal", "the proxy itself", id="our own name"),
    pytest.param("CLONED.internal.", "the proxy itself", id="our own name, otherwise written"),
    pytest.param("", "empty", id="nothing"),
]


@pytest.mark.parametrize(("host", "message"), NEVER)
def test_what_no_rule_may_allow_cannot_be_asked_for(scene: Scene, host: str, message: str) -> None:
    with pytest.raises(NeverAllowedError, match=message) as refused:
        scene.ask(host)
    assert "\n" not in str(refused.value)
    assert scene.service().list() == []


@pytest.mark.parametrize(
    "terms",
    [{"uses": 0}, {"uses": 1, "action": "deny"}, {"for_seconds": 0.5}, {"for_seconds": 1e12}, {"uses": 10**9}],
)
def test_terms_have_bounds(scene: Scene, terms: dict[str, Any]) -> None:
    with pytest.raises(NeverAllowedError):
        scene.ask("api.example.com", **terms)
    with pytest.raises(NeverAllowedError):
        scene.service().ask(TOOL, Proposal((), TOOL))
    with pytest.raises(NeverAllowedError):
        scene.ask(*(f"h{n}.example.com" for n in range(21)))


def test_a_secret_in_the_text_is_nowhere_in_the_workspace(scene: Scene) -> None:
    canary = "sk-live-4fJ9aKq2Lm8Zx7WvCANARY"
    asked = scene.ask("api.example.com", reason=f"my key is {canary}\x1b[2J")
    scene.service().approve(asked.id, actor=ACTOR, reason=f"ok {canary}")
    for file in scene.workspace.root.rglob("*"):
        assert b"CANARY" not in file.read_bytes(), file
    assert b"\x1b" not in scene.policy_file.read_bytes()


def test_an_unknown_request_is_said_to_be_unknown(scene: Scene) -> None:
    for decide in (scene.service().approve, scene.service().reject):
        with pytest.raises(UnknownApprovalError, match="a-nothing"):
            decide("a-nothing", actor=ACTOR)
    assert issubclass(UnknownApprovalError, ApprovalError)


def test_a_database_from_before_gains_the_table(scene: Scene) -> None:
    scene.ask()
    old = sqlite3.connect(scene.workspace.state_db)
    old.execute("DROP TABLE approvals")
    old.commit()
    old.close()
    assert scene.service().list() == []
    assert scene.ask().state == "pending"


def test_decided_requests_are_forgotten_one_day(scene: Scene) -> None:
    old = scene.ask("old.example.com")
    scene.service().reject(old.id, actor=ACTOR)
    scene.pass_time(91 * 86_400)
    late = scene.ask("new.example.com")
    scene.pass_time(900)
    scene.service().expire()
    assert [each.id for each in scene.service().list()] == [late.id]
