"""allow, deny, remove, list: what they write, what they print, what they refuse."""

from __future__ import annotations

import json
import time
from datetime import datetime

import pytest

from tests.cli.program import TOOL, Workspace, policy_text

COMMENTED = """\
# why this file is as it is
version: 1
global:
  allow:
    - api.example.com  # the search
"""


def test_an_edit_keeps_comments_and_order(workspace: Workspace) -> None:
    workspace.write_policy(COMMENTED)
    assert workspace.run("allow", "new.example.com").returncode == 0
    text = workspace.policy.read_text()
    assert text.startswith(COMMENTED.rstrip())
    assert "new.example.com" in text


def test_every_option_of_allow_arrives_in_the_list(workspace: Workspace) -> None:
    workspace.write_policy(policy_text())
    options = [
        "--tool",
        TOOL,
        "--for",
        "30m",
        "--uses",
        "5",
        "--method",
        "get",
        "--path",
        "/v1/**",
        "--reason",
        "a test",
    ]
    before = time.time()
    done = workspace.run("allow", "api.example.com:8443", *options)
    assert done.returncode == 0, done.stderr
    (rule,) = workspace.json("list")["rules"]
    assert {
        "scope": TOOL,
        "action": "allow",
        "host": "api.example.com",
        "ports": [8443],
        "methods": ["GET"],
        "paths": ["/v1/**"],
        "max_uses": 5,
        "uses_left": 5,
        "reason": "a test",
        "last_hit": None,
    }.items() <= rule.items()
    assert rule["id"].startswith("r-")
    assert "policy.yaml:" in rule["origin"]
    assert before + 1790 < datetime.fromisoformat(rule["expires"]).timestamp() < time.time() + 1810


def test_a_dry_run_prints_the_change_and_makes_none(workspace: Workspace) -> None:
    workspace.write_policy(policy_text())
    before = workspace.policy.read_text()
    done = workspace.run("allow", "api.example.com", "--dry-run")
    assert done.returncode == 0
    assert "+" in done.stdout
    assert "api.example.com" in done.stdout
    assert workspace.policy.read_text() == before


def test_several_hosts_are_one_edit_or_none(workspace: Workspace) -> None:
    workspace.write_policy(policy_text())
    before = workspace.policy.read_text()
    assert workspace.run("allow", "good.example.com", "*.com").returncode == 2
    assert workspace.policy.read_text() == before
    assert workspace.run("allow", "one.example.com", "two.example.com").returncode == 0
    assert {rule["host"] for rule in workspace.json("list")["rules"]} == {"one.example.com", "two.example.com"}


def test_remove_takes_back_an_allow_and_a_deny(workspace: Workspace) -> None:
    workspace.write_policy(policy_text())
    workspace.run("allow", "api.example.com")
    workspace.run("deny", "api.example.com")
    assert len(workspace.json("list")["rules"]) == 2
    assert workspace.run("remove", "api.example.com").returncode == 0
    assert workspace.json("list")["rules"] == []


def test_removing_what_is_not_there_fails(workspace: Workspace) -> None:
    workspace.write_policy(policy_text())
    done = workspace.run("remove", "api.example.com")
    assert done.returncode in (1, 2)
    assert "api.example.com" in done.stderr


def test_list_shows_the_rules_that_a_tool_really_has(workspace: Workspace) -> None:
    workspace.write_policy(policy_text(allow=["shared.example.com"], tool_allow=["own.example.com"]))
    hosts = {rule["host"] for rule in workspace.json("list", "--tool", TOOL)["rules"]}
    assert hosts == {"shared.example.com", "own.example.com"}
    assert {rule["host"] for rule in workspace.json("list", "--tool", "other@v1")["rules"]} == {"shared.example.com"}


@pytest.mark.parametrize("command", ["list", "explain"])
def test_reading_without_a_workspace_names_the_fix(workspace: Workspace, command: str) -> None:
    arguments = [command, "https://example.com/"] if command == "explain" else [command]
    done = workspace.run(*arguments)
    assert done.returncode == 2
    assert "cloned-proxy serve" in done.stderr or "allow" in done.stderr


def test_an_edit_is_in_the_log_with_who_and_why(workspace: Workspace) -> None:
    workspace.write_policy(policy_text())
    assert workspace.run("allow", "api.example.com", "--reason", "ticket 7").returncode == 0
    done = workspace.run("log", "--json")
    assert '"action": "edit"' in done.stdout
    assert "ticket 7" in done.stdout
    assert '"actor": "cli:' in done.stdout


def test_the_record_of_an_edit_tells_how_narrow_it_was(workspace: Workspace) -> None:
    workspace.write_policy(policy_text())
    narrow = ("--method", "GET", "--path", "/v1/**", "--uses", "5", "--for", "30m")
    assert workspace.run("allow", "api.example.com:443", *narrow).returncode == 0
    summary = json.loads(workspace.run("log", "--json").stdout.splitlines()[-1])["summary"]
    assert summary.startswith("allow api.example.com:443 GET /v1/** uses 5 until 2")


@pytest.mark.parametrize("command", [("list",), ("log",), ("audit", "verify")])
def test_a_workspace_that_others_can_write_is_not_read(workspace: Workspace, command: tuple[str, ...]) -> None:
    workspace.write_policy(policy_text())
    workspace.path.chmod(0o777)
    done = workspace.run(*command)
    assert done.returncode == 2
    assert "chmod 700" in done.stderr
