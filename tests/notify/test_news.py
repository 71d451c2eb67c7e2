"""What is news: read from a real log, once for each tool, host and port, and never too much."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloned_proxy.notify import news as module
from cloned_proxy.notify.news import NewsReader
from cloned_proxy.notify.notice import Notice
from cloned_proxy.store.audit.audit_log import AuditLog
from cloned_proxy.store.settings.notify_settings import NotifySettings
from cloned_proxy.store.workspaces.workspace import Workspace
from cloned_proxy.telemetry.events import ApprovalEvent, DecisionEvent, Event, Kind, new_decision_id

TOOL = "demo@v1"
POLICY = "version: 1\ntools:\n  asks@v1: {on_deny: ask}\n  codex@v1: {use: [codex]}\n"


def denied(
    host: str, *, tool: str | None = TOOL, port: int = 443, verdict: str = "deny", reason: str = "host_not_allowed"
) -> DecisionEvent:
    return DecisionEvent(
        new_decision_id(), 1.0, Kind.TUNNEL, verdict, reason, tool, None, host, port, "CONNECT", "", "", "v", "hint"
    )


def asked(action: str = "asked") -> ApprovalEvent:
    return ApprovalEvent(1.0, action, "ap1", f"tool:{TOOL}", TOOL, "allow a.test:443 for demo@v1", "please", "v")


class World:
    def __init__(self, workspace: Workspace, **settings: object) -> None:
        self.workspace = workspace
        self.now = 1000.0
        given = NotifySettings.model_validate({"desktop": True, **settings})
        with AuditLog(workspace.state_db) as log:
            after = log.newest()
        self.news = NewsReader(
            workspace.state_db, workspace.policy_file, workspace.presets, given, lambda: self.now, after=after
        )

    def happens(self, *events: Event) -> list[Notice]:
        with AuditLog(self.workspace.state_db) as log:
            for event in events:
                log.append(event)
        return self.news.look()

    def hosts(self, *events: Event) -> list[str]:
        return [notice.host or notice.what for notice in self.happens(*events)]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    found = Workspace(tmp_path / ".cloned")
    found.create()
    found.policy_file.write_text(POLICY)
    return found


def test_what_was_there_before_is_old(workspace: Workspace) -> None:
    with AuditLog(workspace.state_db) as log:
        log.append(denied("old.test"))
    world = World(workspace)
    assert world.news.look() == []
    assert world.hosts(denied("new.test")) == ["new.test"]


def test_once_for_each_tool_host_and_port_in_a_period(workspace: Workspace) -> None:
    world = World(workspace, period=60.0)
    assert world.hosts(denied("a.test"), denied("a.test")) == ["a.test"]
    assert world.hosts(denied("a.test", port=80), denied("a.test", tool=None), denied("a.test")) == ["a.test"] * 2
    world.now += 59
    assert world.hosts(denied("a.test")) == []
    world.now += 2
    assert world.hosts(denied("a.test")) == ["a.test"]


def test_only_denials_are(workspace: Workspace) -> None:
    world = World(workspace)
    assert world.hosts(denied("a.test", verdict="allow"), denied("b.test", verdict="report")) == []


def test_too_many_are_counted_and_the_count_goes_with_the_next(workspace: Workspace) -> None:
    world = World(workspace, per_minute=3)
    told = world.happens(*(denied(f"h{number}.test") for number in range(50)))
    assert [notice.host for notice in told] == ["h0.test", "h1.test", "h2.test"]
    world.now += 61
    (notice,) = world.happens(denied("later.test"))
    assert notice.more == 47
    assert "And 47 more." in notice.text
    (notice,) = world.happens(denied("last.test"))
    assert notice.more == 0


def test_what_is_remembered_is_bounded(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_KNOWN", 5)
    world = World(workspace, per_minute=600)
    world.happens(*(denied(f"h{number}.test") for number in range(20)))
    assert len(world.news._told) == 5


def test_what_a_preset_knows_as_harmless_is_no_news(workspace: Workspace) -> None:
    world = World(workspace)
    assert world.hosts(denied("ab.chatgpt.com", tool="codex@v1"), denied("ab.chatgpt.com")) == ["ab.chatgpt.com"]
    workspace.policy_file.write_text("version: 1\ntools: {demo@v1: {use: [gemini-cli]}}\n")
    assert world.hosts(denied("play.googleapis.com"), denied("not a host \x00")) == ["not a host \x00"]


def test_a_request_is_told_once_and_in_place_of_its_denial(workspace: Workspace) -> None:
    world = World(workspace)
    assert world.hosts(denied("a.test", tool="asks@v1"), asked()) == ["allow a.test:443 for demo@v1"]
    assert [notice.reason for notice in world.happens(asked("approved"), asked("expired"))] == ["approved", "expired"]
    without = World(workspace, events=["denial"])
    assert without.hosts(denied("b.test", tool="asks@v1"), asked()) == ["b.test"]
    requests = World(workspace, events=["request"])
    assert requests.hosts(denied("c.test"), asked()) == ["allow a.test:443 for demo@v1"]


def test_a_broken_policy_silences_nothing(workspace: Workspace) -> None:
    world = World(workspace)
    workspace.policy_file.write_text("nonsense: [")
    assert world.hosts(denied("a.test")) == ["a.test"]


@pytest.mark.parametrize(("anonymous", "told"), [("challenge", []), ("deny", ["a.test"])])
def test_a_question_for_a_credential_is_no_news(workspace: Workspace, anonymous: str, told: list[str]) -> None:
    """Each call of git begins with one."""
    workspace.policy_file.write_text(f"{POLICY}anonymous: {anonymous}\n")
    world = World(workspace)
    assert world.hosts(denied("a.test", tool=None, reason="identity_missing")) == told


def test_a_secret_on_its_way_out_is_always_told(workspace: Workspace) -> None:
    world = World(workspace, per_minute=1)
    leak = denied("a.test", reason="secret_leak")
    told = world.happens(*(denied(f"{number}.test") for number in range(9)), denied("a.test"), leak)
    assert [(notice.host, notice.title) for notice in told] == [
        ("0.test", "Egress denied"), ("a.test", "A secret was on its way out"),
    ]  # fmt: skip
    assert world.happens(leak) == []
    world.now += 61
    (asking,) = world.happens(denied("b.test", tool="asks@v1", reason="secret_leak"))
    assert asking.reason == "secret_leak"
