"""allow, deny, remove, list: what they write, what they print, what they refuse."""

from __future__ import annotations

import json
import sqlite3
import time
from datetime import datetime

import pytest

from cloned_proxy.share import share_path
from tests.cli.program import TOOL, Origin, Workspace, eventually, literal, policy_text

COMMENTED = """\
# why this file is as it is
version: 1
global:
  allow:
    - api.example.com  # the search
"""


def test_an_edit_keeps_comments_and_order(workspace: Workspace) -> None:
    workspace.write_policy(COMMENTED)
    assert workspace.call("allow", "new.example.com").returncode == 0
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
    done = workspace.call("allow", "api.example.com", "--dry-run")
    assert done.returncode == 0
    assert "+" in done.stdout
    assert "api.example.com" in done.stdout
    assert workspace.policy.read_text() == before


def test_several_hosts_are_one_edit_or_none(workspace: Workspace) -> None:
    workspace.write_policy(policy_text())
    before = workspace.policy.read_text()
    assert workspace.call("allow", "good.example.com", "*.com").returncode == 2
    assert workspace.policy.read_text() == before
    assert workspace.call("allow", "one.example.com", "two.example.com").returncode == 0
    assert {rule["host"] for rule in workspace.json("list")["rules"]} == {"one.example.com", "two.example.com"}


def test_remove_takes_back_an_allow_and_a_deny(workspace: Workspace) -> None:
    workspace.write_policy(policy_text())
    workspace.call("allow", "api.example.com")
    workspace.call("deny", "api.example.com")
    assert len(workspace.json("list")["rules"]) == 2
    assert workspace.call("remove", "api.example.com").returncode == 0
    assert workspace.json("list")["rules"] == []


def test_removing_what_is_not_there_fails(workspace: Workspace) -> None:
    workspace.write_policy(policy_text())
    done = workspace.call("remove", "api.example.com")
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
    done = workspace.call(*arguments)
    assert done.returncode == 2
    assert "cloned-proxy init" in done.stderr


def test_an_edit_is_in_the_log_with_who_and_why(workspace: Workspace) -> None:
    workspace.write_policy(policy_text())
    assert workspace.call("allow", "api.example.com", "--reason", "ticket 7").returncode == 0
    done = workspace.call("log", "--json")
    assert '"action": "edit"' in done.stdout
    assert "ticket 7" in done.stdout
    assert '"actor": "cli:' in done.stdout


def test_the_record_of_an_edit_tells_how_narrow_it_was(workspace: Workspace) -> None:
    workspace.write_policy(policy_text())
    narrow = ("--method", "GET", "--path", "/v1/**", "--uses", "5", "--for", "30m")
    assert workspace.call("allow", "api.example.com:443", *narrow).returncode == 0
    summary = json.loads(workspace.call("log", "--json").stdout.splitlines()[-1])["summary"]
    assert summary.startswith("allow api.example.com:443 GET /v1/** uses 5 until 2")


@pytest.mark.parametrize("command", [("list",), ("log",), ("audit", "verify")])
def test_a_workspace_that_others_can_write_is_not_read(workspace: Workspace, command: tuple[str, ...]) -> None:
    workspace.write_policy(policy_text())
    workspace.path.chmod(0o777)
    done = workspace.call(*command)
    assert done.returncode == 2
    assert "chmod 700" in done.stderr


def test_stale_rules_come_as_commands_and_nothing_is_removed_by_itself(workspace: Workspace, origin: Origin) -> None:
    workspace.write_policy(policy_text(allow=[literal(origin)], tool_allow=["old.example.com"]))
    serving = workspace.serve()
    assert serving.get(origin.url()).status == 200
    narrow = ("--method", "GET", "--path", "/v1/**")
    assert workspace.run("allow", "twice.example.com", "--tool", TOOL).returncode == 0
    assert workspace.run("allow", "twice.example.com", "--tool", TOOL, *narrow).returncode == 0
    assert workspace.run("deny", "tracker.example.com").returncode == 0
    eventually(lambda: any(rule["hits"] for rule in workspace.json("list")["rules"]))
    assert workspace.json("list", "--stale", "1h") == [], "an hour has not gone by"

    database = sqlite3.connect(workspace.path / "state.db", isolation_level=None)
    database.execute("UPDATE rule_seen SET first = first - 40 * 86400")
    database.execute("UPDATE rule_hits SET last = last - 2 * 86400")
    (narrow_id,) = [rule["id"] for rule in workspace.json("list")["rules"] if rule["paths"]]
    database.execute("INSERT INTO rule_hits VALUES (?, 7, ?)", (narrow_id, time.time()))
    database.close()
    done = workspace.run("list", "--stale", "30d")
    assert done.returncode == 0
    (wide_id,) = [
        rule["id"]
        for rule in workspace.json("list")["rules"]
        if rule["host"] == "twice.example.com" and rule["id"] != narrow_id
    ]
    commands = [line.partition("  #")[0] for line in done.stdout.splitlines()]
    assert commands == [f"cloned-proxy remove old.example.com --tool {TOOL}", f"cloned-proxy remove {wide_id}"]
    assert "hits: 0" in done.stdout
    before = workspace.policy.read_text()
    assert "old.example.com" in before
    told = workspace.json("list", "--stale", "30d")
    assert [rule["remove"] for rule in told] == commands
    for command in commands:
        assert workspace.run(*command.split()[1:]).returncode == 0
    text = workspace.policy.read_text()
    assert "old.example.com" not in text
    assert "/v1/**" in text, "the rule that is in use stays"
    assert workspace.run("list", "--stale", "30d").stdout == ""
    assert workspace.run("remove", wide_id).returncode == 1
    assert workspace.run("list", "--stale", "soon").returncode == 2


def test_list_says_what_is_left_of_a_lease_by_the_clock_that_comes_first(workspace: Workspace) -> None:
    workspace.write_policy(policy_text())
    assert workspace.call("allow", "api.example.com", "--for", "30m").returncode == 0
    (rule,) = workspace.json("list")["rules"]
    assert 1700 < rule["seconds_left"] <= 1801
    assert workspace.call("explain", "https://api.example.com/").returncode == 0
    database = sqlite3.connect(workspace.path / "state.db", isolation_level=None)
    database.execute("UPDATE lease_ends SET left = left - 1900")  # as after 1900 seconds with the wall clock set back
    database.close()
    (rule,) = workspace.json("list")["rules"]
    assert rule["seconds_left"] == 0
    assert "expired" in workspace.call("list").stdout
    assert workspace.json("explain", "https://api.example.com/", code=1)["reason"] == "lease_expired"


def test_that_a_rule_injects_a_secret_is_shown_and_the_secret_is_not(workspace: Workspace) -> None:
    inject = 'inject: {header: Authorization, value: "Bearer ${vault:llm.api_key}"}'
    workspace.write_policy(
        policy_text(allow=["plain.example.com", f"{{host: api.example.com, ports: [443], methods: [GET], {inject}}}"])
    )
    explain = ("explain", "https://api.example.com/v1")
    injected = {rule["host"]: rule["inject"] for rule in workspace.json("list")["rules"]}
    assert injected == {"plain.example.com": None, "api.example.com": "Authorization"}
    assert workspace.json(*explain)["rule"]["inject"] == "Authorization"
    assert workspace.json("explain", "https://plain.example.com/")["rule"]["inject"] is None
    listed, explained = workspace.call("list").stdout, workspace.call(*explain).stdout
    assert "allow api.example.com:443 GET inject Authorization" in listed
    assert "inject  Authorization" in explained
    assert "inject" not in workspace.call(*explain, "--method", "POST").stdout, "a refused request gets no header"
    for told in (listed, explained, *(workspace.call(*words, "--json").stdout for words in (("list",), explain))):
        assert "llm.api_key" not in told
        assert "Bearer" not in told


def test_only_tls_that_would_be_opened_is_told_to_be_opened(workspace: Workspace) -> None:
    rule = "{host: api.example.com, ports: [8443], methods: [GET]}"
    workspace.write_policy(policy_text(allow=[rule]))
    assert workspace.json("explain", "https://api.example.com:8443/")["inspected"] is True
    for refused in (("https://api.example.com/",), ("https://api.example.com:8443/", "--method", "POST")):
        assert workspace.json("explain", *refused, code=1)["inspected"] is False
        assert "tls " not in workspace.call("explain", *refused).stdout


@pytest.mark.parametrize("words", [("allow", "example.net"), ("remove", "example.com"), ("deny", "example.com")])
def test_the_shipped_policy_can_be_edited(workspace: Workspace, words: tuple[str, ...]) -> None:
    workspace.write_policy(share_path("config", "policy.yaml").read_text())
    done = workspace.call(*words)
    assert (done.returncode, done.stderr.partition(":")[0]) == (0, "done")


def test_a_test_of_the_file_that_forbids_an_edit_is_named_once_and_goes_where_that_is_wanted(
    workspace: Workspace,
) -> None:
    workspace.write_policy(share_path("config", "policy.yaml").read_text())
    line = (
        workspace.policy.read_text()
        .splitlines()
        .index('  - {deny: ["http://169.254.169.254/"]}   # the cloud\'s metadata service, which hands out credentials')
    )
    done = workspace.call("allow", "169.254.169.254")
    assert done.returncode == 2
    why = "a test of the file forbids this: 'http://169.254.169.254/' should be denied"
    assert done.stderr.splitlines() == [
        f"cloned-proxy: {workspace.policy}:{line + 1}: tests[0].deny[0]: {why}",
        "cloned-proxy: add --update-tests to take that out of the tests in the same edit",
    ]
    done = workspace.call("allow", "169.254.169.254", "--update-tests")
    assert done.returncode == 0
    assert "no longer tested: tests[0].deny[0] 'http://169.254.169.254/'" in done.stderr
    assert workspace.call("policy", "check").returncode == 0


def test_an_error_in_a_new_entry_names_no_file_that_was_never_written(workspace: Workspace) -> None:
    workspace.write_policy(policy_text())
    done = workspace.call("allow", "*.com")
    assert done.returncode == 2
    assert done.stderr.startswith("cloned-proxy: '*.com' is too broad")


def test_prune_says_what_it_takes_out(workspace: Workspace) -> None:
    workspace.write_policy(policy_text(allow=["{host: a.example, expires: 2020-01-01T00:00:00Z}", "b.example"]))
    planned = workspace.json("policy", "prune", "--dry-run")
    assert [rule["host"] for rule in planned["removed"]] == ["a.example"]
    assert len(workspace.json("list")["rules"]) == 2
    done = workspace.call("policy", "prune")
    assert "allow a.example" in done.stdout
    assert "done: prune 1 ended" in done.stderr
    assert [rule["host"] for rule in workspace.json("list")["rules"]] == ["b.example"]
    assert "nothing to prune" in workspace.call("policy", "prune").stderr
