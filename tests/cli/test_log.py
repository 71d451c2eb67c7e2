"""log and audit verify: what was decided, live and afterwards, and whether anybody touched it."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from contextlib import closing

from tests.cli.program import PROGRAM, TOOL, Origin, Workspace, eventually, literal, policy_text


def records(workspace: Workspace, *options: str) -> list[dict[str, object]]:
    done = workspace.run("log", "--json", *options)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_decisions_are_listed_and_filtered(workspace: Workspace, origin: Origin) -> None:
    workspace.write_policy(policy_text(allow=[literal(origin)], tool_allow=[literal(origin)]))
    serving = workspace.serve()
    token = workspace.json("token", TOOL)["token"]
    serving.get(origin.url("/a?secret=1"))
    serving.get("http://denied.example/")
    serving.get("http://tool.example/", headers={"Proxy-Authorization": f"Bearer {token}"})
    eventually(lambda: len(records(workspace, "--denied")) == 2, 3, "the records")

    decisions = [record for record in records(workspace) if record.get("verdict")]
    assert [(d["verdict"], d["reason"], d["host"]) for d in decisions] == [
        ("allow", "allowed", "127.0.0.1"),
        ("deny", "host_not_allowed", "denied.example"),
        ("deny", "host_not_allowed", "tool.example"),
    ]
    assert [d["host"] for d in records(workspace, "--denied")] == ["denied.example", "tool.example"]
    assert [d["host"] for d in records(workspace, "--tool", TOOL)] == ["tool.example"]
    assert [d for d in records(workspace, "--since", "1h") if d.get("verdict")] == decisions
    assert "secret" not in workspace.run("log", "--json").stdout
    assert "denied.example" in workspace.run("log").stdout


def test_follow_prints_each_decision_as_it_is_made(workspace: Workspace, origin: Origin) -> None:
    workspace.write_policy(policy_text(allow=[literal(origin)]))
    serving = workspace.serve()
    with subprocess.Popen(
        [PROGRAM, "log", "-f", "--json", "--denied"],
        env=workspace.environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as following:
        assert following.stdout is not None
        try:
            for name in ("one.example", "two.example"):
                serving.get(f"http://{name}/")
                assert json.loads(following.stdout.readline())["host"] == name
        finally:
            following.terminate()
        assert following.wait(5) in (0, -15, 143, 130)


def test_a_touched_record_is_named(workspace: Workspace) -> None:
    workspace.write_policy(policy_text())
    serving = workspace.serve()
    for number in range(5):
        serving.get(f"http://host{number}.example/")
    eventually(lambda: len(records(workspace, "--denied")) == 5, 3, "the records")
    serving.process.terminate()
    serving.wait()
    intact = workspace.run("audit", "verify")
    assert intact.returncode == 0, intact.stderr
    assert workspace.json("audit", "verify")["ok"] is True

    with closing(sqlite3.connect(workspace.path / "state.db")) as state, state:
        changed = 0
        tables = [row[0] for row in state.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for column in [row[1] for row in state.execute(f'PRAGMA table_info("{table}")')]:
                changed += state.execute(
                    f'UPDATE "{table}" SET "{column}" = replace("{column}", \'host2.example\', \'host9.example\') '
                    f"WHERE CAST(\"{column}\" AS TEXT) LIKE '%host2.example%'"
                ).rowcount
    assert changed
    touched = workspace.run("audit", "verify")
    assert touched.returncode == 1
    broken = workspace.json("audit", "verify", code=1)
    assert broken["ok"] is False
    assert broken["first_broken"]


def test_verifying_an_empty_workspace_is_done_not_failed(workspace: Workspace) -> None:
    workspace.write_policy(policy_text())
    assert workspace.run("audit", "verify").returncode == 0
