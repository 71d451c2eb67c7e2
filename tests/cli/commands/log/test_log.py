"""log and audit verify: what was decided, live and afterwards, and whether anybody touched it."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from dataclasses import replace

from cloned_proxy.share import share_path
from cloned_proxy.store.audit.audit_log import AuditLog
from cloned_proxy.telemetry.events import FlowEnd, ProbeEvent, RunEvent
from tests.cli.program import PROGRAM, TOOL, Origin, Workspace, eventually, literal, policy_text
from tests.cli.pseudo_terminal import at_terminal


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
    eventually(lambda: len(records(workspace, "--denied")) == 2, what="the records")

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


KEYS = {
    "decision": "seq type id at kind verdict reason tool run host port method path rule policy hint spends_use amends "
    "refused_address source_address",
    "policy": "seq type at action actor summary why policy",
    "run": "seq type at tool run result seconds start_seconds dry_run reason command",
    "probe": "seq type at sealed attempts controls seconds failures actor",
}
"""What scripts and log shippers rely on: a key may come, none may go."""


RUN = RunEvent(1000.0, TOOL, "dry-cafe", "failed", 1.5, 0.25, True, "exit code 3 \x1b[31m", "sh -c false")
PROBE = ProbeEvent(1001.0, False, 74, 13, 3.5, ("host services: leak",))


def test_runs_and_probes_are_shown_to_people_and_to_filters(workspace: Workspace) -> None:
    workspace.write_policy(policy_text())
    with AuditLog(workspace.path / "state.db") as audit:
        for event in (RUN, replace(RUN, tool="other@v1", run="beef", result="ok", dry_run=False, reason=""), PROBE):
            audit.append(event)
    at = "1970-01-01T00:16:40Z"
    assert workspace.call("log").stdout.splitlines() == [
        f"{at}  run     {TOOL}  run dry-cafe  failed in 1.50 s  (dry run)  exit code 3 \\x1b[31m  sh -c false",
        "1970-01-01T00:16:40Z  run     other@v1  run beef  ok in 1.50 s  sh -c false",
        "1970-01-01T00:16:41Z  probe   NOT SEALED  74 attempts, 13 controls, 3.5 s; host services: leak",
    ]
    assert [record["run"] for record in records(workspace, "--tool", TOOL)] == ["dry-cafe"]
    assert records(workspace, "--denied") == []
    assert workspace.call("audit", "verify").returncode == 0


def test_a_flow_that_was_cut_is_shown_and_one_that_ended_is_not(workspace: Workspace) -> None:
    workspace.write_policy(policy_text())
    with AuditLog(workspace.path / "state.db") as audit:
        ends = (
            "closed",
            "refused:not_tls",
            "cut:device:desk",
            "idle",
            "revoked:host_not_allowed",
            "refused:secret_echoed",
        )
        for cause in ends:
            audit.append(FlowEnd("cafe", 1000.0, TOOL, 10, 2000, 1.5, cause))
    assert workspace.call("log").stdout.splitlines() == [
        f"1970-01-01T00:16:40Z  cut     {TOOL}  cut:device:desk  10 bytes up, 2000 down  id: cafe",
        f"1970-01-01T00:16:40Z  cut     {TOOL}  idle  10 bytes up, 2000 down  id: cafe",
        f"1970-01-01T00:16:40Z  cut     {TOOL}  revoked:host_not_allowed  10 bytes up, 2000 down  id: cafe",
        f"1970-01-01T00:16:40Z  cut     {TOOL}  refused:secret_echoed  10 bytes up, 2000 down  id: cafe",
    ]
    assert [record["cause"] for record in records(workspace, "--tool", TOOL)] == [
        "cut:device:desk", "idle", "revoked:host_not_allowed", "refused:secret_echoed",
    ]  # fmt: skip
    assert records(workspace, "--denied") == []


def test_a_flow_that_was_cut_is_told_with_its_host(workspace: Workspace, origin: Origin) -> None:
    workspace.write_policy(policy_text(allow=[literal(origin)]))
    serving = workspace.serve()
    serving.get(origin.url("/a"))
    eventually(lambda: len(records(workspace)) > 0, what="the record")
    decision = next(record for record in records(workspace) if record["type"] == "decision")
    with AuditLog(workspace.path / "state.db") as audit:
        for seconds in (1, 2):
            audit.append(FlowEnd(str(decision["id"]), time.time() + seconds, TOOL, 10, 2000, 1.5, "idle"))
    said = f"  {TOOL}  {decision['host']}:{decision['port']}  idle  "
    assert [said in line for line in workspace.run("log", "--since", "1h").stdout.splitlines() if "cut" in line] == [
        True, True,
    ]  # fmt: skip
    assert said in workspace.run("log", "--tool", TOOL).stdout, "the decision itself is not among these"


def test_the_newest_are_asked_for_by_number(workspace: Workspace) -> None:
    workspace.write_policy(policy_text())
    with AuditLog(workspace.path / "state.db") as audit:
        for number in range(300):
            audit.append(replace(RUN, run=f"run-{number}"))
    assert [record["run"] for record in records(workspace, "-n", "2")] == ["run-298", "run-299"]
    assert "run-299" in workspace.call("log", "-n", "1").stdout
    assert workspace.call("log", "-n", "1").stdout.count("\n") == 1
    assert workspace.call("log", "-n", "-1").returncode == 2
    for words, count in (((), 300), (("-n", "0"), 300), (("--limit", "7"), 7)):
        assert len(records(workspace, *words)) == count
    assert at_terminal(workspace, "log", columns=200).count("run-") == 200
    assert at_terminal(workspace, "log", "-n", "0", columns=200).count("run-") == 300


def test_each_type_of_record_has_its_stable_keys(workspace: Workspace, origin: Origin) -> None:
    workspace.write_policy(policy_text(allow=[literal(origin)]))
    serving = workspace.serve()
    answer = serving.get("http://denied.example/")
    with AuditLog(workspace.path / "state.db") as audit:
        audit.append(RUN)
        audit.append(PROBE)
    eventually(lambda: {r["type"] for r in records(workspace)} == set(KEYS), what="a record of each type")
    found = records(workspace)
    for record in found:
        assert set(record) == set(KEYS[str(record["type"])].split()), record
    ids = {record["id"]: record for record in found if record["type"] == "decision"}
    assert ids[json.loads(answer.body)["decision_id"]]["host"] == "denied.example"


def test_every_message_of_serve_is_one_object_a_line_when_asked(workspace: Workspace) -> None:
    workspace.write_policy(policy_text())
    serving = workspace.serve("--log-format", "json")
    workspace.write_policy("broken: [")
    eventually(lambda: "not accepted" in serving.log(), what="the message about the broken policy")
    serving.signal(signal.SIGTERM)
    serving.wait()
    messages = [json.loads(line) for line in serving.log().splitlines()]
    assert [message["level"] for message in messages] == ["info", "error", "info", "info"]
    assert all({"timestamp", "level", "event"} <= set(message) for message in messages)


def test_the_log_shipper_reads_keys_that_exist_and_labels_only_what_has_few_values() -> None:
    config = share_path("dashboards", "cloned-proxy.alloy").read_text()

    def named(stage: str) -> set[str]:
        block = re.search(rf"stage\.{stage} {{\s*\w+ = {{(.*?)}}", config)
        assert block is not None, stage
        pairs = re.findall(r'(\w+) = "(\w*)"', block[1])
        return {source or name for name, source in pairs}

    assert named("json") <= set(" ".join(KEYS.values()).split()) | {"level"}
    assert named("labels") == {"level", "type", "verdict"}
    assert named("structured_metadata") | named("labels") == named("json")


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
        assert following.wait(60) in (0, -15, 143, 130)


def test_a_touched_record_is_named(workspace: Workspace) -> None:
    workspace.write_policy(policy_text())
    serving = workspace.serve()
    for number in range(5):
        serving.get(f"http://host{number}.example/")
    eventually(lambda: len(records(workspace, "--denied")) == 5, what="the records")
    serving.process.terminate()
    serving.wait()
    intact = workspace.run("audit", "verify")
    assert intact.returncode == 0, intact.stderr
    checked = workspace.json("audit", "verify")
    assert checked["ok"] is True
    with closing(sqlite3.connect(workspace.path / "state.db")) as database:
        (newest,) = database.execute("SELECT hash FROM entries ORDER BY seq DESC LIMIT 1").fetchone()
    assert checked["last_hash"] == newest

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
    assert workspace.call("audit", "verify").returncode == 0
