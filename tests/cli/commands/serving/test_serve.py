"""Starting, being watched, and stopping: `cloned-proxy serve` as a process."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import sqlite3
import stat
import subprocess
import threading
from contextlib import closing
from pathlib import Path

import pytest

from cloned_proxy.store.workspaces.keys import load_or_create_key
from tests.cli.program import Answer, Origin, Workspace, eventually, literal, policy_text
from tests.free_port import free_port


def refused_start(workspace: Workspace, *arguments: str, code: int = 2) -> str:
    """Runs a `serve` that must not start; returns its one line."""
    listen = () if "--listen" in arguments else ("--listen", "127.0.0.1:0")
    done = workspace.run("serve", *listen, "--metrics", "off", "--control", "off", *arguments)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("cloned-proxy:")]
    assert lines, done.stderr
    return "\n".join(lines)


def test_the_two_printed_curl_lines_behave_as_printed(workspace: Workspace, origin: Origin) -> None:
    workspace.write_policy(policy_text(allow=[literal(origin)]))
    serving = workspace.serve()
    told = {line.split()[0]: line.split(maxsplit=1)[1] for line in serving.banner if line}
    for word, status in (("allowed", "200"), ("denied", "403")):
        command = [*shlex.split(told[word]), "--silent", "--output", os.devnull]
        # A refused CONNECT has its status in http_connect, a plain request in http_code.
        command += ["--write-out", "%{http_connect} %{http_code}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
        assert status in done.stdout.split(), (word, done)
    assert len(origin.seen) == 1


def test_the_first_start_makes_a_private_workspace_with_the_shipped_policy(workspace: Workspace) -> None:
    serving = workspace.serve()
    assert "shipped default" in serving.log()
    assert stat.S_IMODE(workspace.path.stat().st_mode) == 0o700
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in workspace.path.iterdir() if path.is_file()}
    assert {"policy.yaml", "identity.key", "state.db"} <= set(modes)
    assert {name: oct(mode) for name, mode in modes.items() if mode != 0o600} == {}
    assert workspace.run("policy", "check").returncode == 0


def test_health_readiness_and_metrics_are_served_beside_the_proxy(workspace: Workspace, origin: Origin) -> None:
    workspace.write_policy(policy_text(allow=[literal(origin)]))
    serving = workspace.serve()
    assert serving.page("/healthz").status == 200
    assert serving.page("/readyz").status == 200
    serving.get(origin.url())
    serving.get("http://denied.example/")
    metrics = serving.page("/metrics").body
    assert 'reason="allowed"' in metrics
    assert 'cloned_proxy_blocked_hosts_total{host="denied.example"' in metrics
    assert "cloned_proxy_policy_rules 1.0" in metrics


@pytest.mark.parametrize(("anonymous", "helps"), [("deny", "cloned-proxy token"), ("global", "cloned-proxy allow")])
def test_where_nothing_passes_the_banner_names_what_helps(workspace: Workspace, anonymous: str, helps: str) -> None:
    """Under `anonymous: deny` no rule opens anything to a caller without a credential."""
    allow = ["a.example.com"] if anonymous == "deny" else []
    workspace.write_policy(policy_text(anonymous=anonymous, allow=allow))
    (line,) = [line for line in workspace.serve().banner if line.startswith("allowed")]
    assert helps in line
    assert ("`anonymous: challenge`" in line) is (anonymous == "deny")


def test_a_port_in_use_is_one_line_with_the_fix(workspace: Workspace, origin: Origin) -> None:
    workspace.write_policy(policy_text())
    line = refused_start(workspace, "--listen", f"127.0.0.1:{origin.port}", code=1)
    assert f"127.0.0.1:{origin.port} is in use" in line
    assert line.count("\n") == 0


def test_a_metrics_port_in_use_leaves_no_listener_behind(workspace: Workspace, origin: Origin) -> None:
    workspace.write_policy(policy_text())
    port = free_port()
    metrics = f"127.0.0.1:{origin.port}"
    done = workspace.run("serve", "--listen", f"127.0.0.1:{port}", "--metrics", metrics, "--control", "off")
    assert done.returncode == 1
    assert metrics in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("version: 1\nglobal:\n  allow: ['*.com']\n", "*.com"),
        ("version: 1\nmystery: 1\n", "mystery"),
        ("version: 1\nmode: enforce\nmode: report\n", "mode"),
        ("a: [", "policy.yaml"),
        ("\x00\x01\x02", "policy.yaml"),
        ("&a [*a]", "policy.yaml"),
        ("", "policy.yaml"),
        ("version: 1\ntests:\n  - {allow: ['https://example.com/']}\n", "example.com"),
    ],
    ids=["too broad", "unknown key", "duplicate key", "cut off", "binary", "cyclic", "empty", "its own test fails"],
)
def test_a_bad_policy_at_the_start_is_refused_by_name(workspace: Workspace, text: str, named: str) -> None:
    workspace.write_policy(text)
    assert named in refused_start(workspace)


def test_a_policy_file_that_was_asked_for_must_exist(workspace: Workspace, tmp_path: Path) -> None:
    assert "gone.yaml" in refused_start(workspace, "--policy", str(tmp_path / "gone.yaml"))


def test_a_broken_state_file_is_refused_and_kept(workspace: Workspace) -> None:
    workspace.write_policy(policy_text())
    state = workspace.path / "state.db"
    state.write_bytes(b"this is not a database" * 100)
    state.chmod(0o600)
    assert "state.db" in refused_start(workspace)
    assert state.read_bytes().startswith(b"this is not")


def test_a_key_that_others_can_read_is_refused(workspace: Workspace) -> None:
    workspace.write_policy(policy_text())
    load_or_create_key(workspace.path / "identity.key")
    (workspace.path / "identity.key").chmod(0o644)
    assert "chmod 600" in refused_start(workspace)


@pytest.mark.parametrize("setting", ["proxy: {max_connections: none}", "unknown: 1", "proxy: {idle_timeout: -1}"])
def test_a_bad_setting_is_refused_by_name(workspace: Workspace, setting: str) -> None:
    workspace.write_policy(policy_text())
    config = workspace.path / "config.yaml"
    config.write_text(setting + "\n")
    config.chmod(0o600)
    assert "config.yaml" in refused_start(workspace)


def test_a_workspace_that_cannot_be_written_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    # A file where the directory should be: read-only for root as well, who is not held up by permissions.
    assert str(blocked) in refused_start(workspace, "--workspace", str(blocked / "ws"))


def test_sigterm_refuses_new_callers_and_lets_open_requests_finish(workspace: Workspace, origin: Origin) -> None:
    workspace.write_policy(policy_text(allow=[literal(origin)]))
    serving = workspace.serve()
    answers: list[Answer] = []
    asking = threading.Thread(target=lambda: answers.append(serving.get(origin.url("/slow"))))
    asking.start()
    assert origin.slow.wait(60)
    serving.signal(signal.SIGTERM)
    eventually(lambda: refuses_connections(serving.port), what="the closed listener")
    assert serving.process.poll() is None
    origin.release.set()
    asking.join(60)
    assert [answer.status for answer in answers] == [200]
    assert serving.wait() == 0


def configure(workspace: Workspace, text: str) -> None:
    config = workspace.path / "config.yaml"
    config.write_text(text)
    config.chmod(0o600)


def test_a_second_signal_cuts_at_once(workspace: Workspace, origin: Origin) -> None:
    workspace.write_policy(policy_text(allow=[literal(origin)]))
    configure(workspace, "proxy: {drain_seconds: 300}\n")
    serving = workspace.serve()
    failed: list[Exception] = []

    def ask() -> None:
        try:
            serving.get(origin.url("/slow"))
        except OSError as error:
            failed.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    assert origin.slow.wait(60)
    serving.signal(signal.SIGTERM)
    eventually(lambda: refuses_connections(serving.port), what="the closed listener")
    serving.signal(signal.SIGTERM)
    assert serving.wait() == 0
    asking.join(60)


def test_a_drain_ends_after_its_time(workspace: Workspace, origin: Origin) -> None:
    workspace.write_policy(policy_text(allow=[literal(origin, protocols="[tcp]")]))
    configure(workspace, "proxy: {drain_seconds: 0.3}\n")
    serving = workspace.serve()
    with socket.create_connection(("127.0.0.1", serving.port), timeout=90) as tunnel:
        tunnel.sendall(f"CONNECT 127.0.0.1:{origin.port} HTTP/1.1\r\nHost: 127.0.0.1:{origin.port}\r\n\r\n".encode())
        assert tunnel.recv(4096).startswith(b"HTTP/1.1 200")
        serving.signal(signal.SIGINT)
        assert serving.wait(9) == 0, "not the ten seconds that it is without the setting"


def test_a_kill_leaves_a_log_that_verifies(workspace: Workspace, origin: Origin) -> None:
    workspace.write_policy(policy_text(allow=[literal(origin)]))
    serving = workspace.serve()
    for _ in range(20):
        serving.get(origin.url())
    serving.signal(signal.SIGKILL)
    serving.wait()
    assert workspace.run("audit", "verify").returncode == 0
    again = workspace.serve()
    assert again.get(origin.url()).status == 200


def test_nothing_is_forwarded_when_the_audit_log_cannot_be_written(workspace: Workspace, origin: Origin) -> None:
    workspace.write_policy(policy_text(allow=[literal(origin)]))
    serving = workspace.serve()
    assert serving.get(origin.url()).status == 200
    # Another process takes the database away from the writer: from then on nothing can be put on record.
    with closing(sqlite3.connect(workspace.path / "state.db")) as thief, thief:
        thief.execute("DROP TABLE IF EXISTS audit")
        tables = [row[0] for row in thief.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            if not table.startswith("sqlite_"):
                thief.execute(f'DROP TABLE IF EXISTS "{table}"')
    serving.get(origin.url())
    eventually(lambda: serving.page("/readyz").status == 503, what="the dead writer's alarm")
    before = len(origin.seen)
    assert serving.get(origin.url()).status == 503
    assert len(origin.seen) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("--listen", "8081"),
        ("--listen", "127.0.0.1:http"),
        ("--listen", "127.0.0.1:99999"),
        ("--listen", "off"),
        ("--metrics", "127.0.0.1"),
    ],
)
def test_a_listen_address_that_is_none_is_bad_usage(workspace: Workspace, arguments: tuple[str, str]) -> None:
    workspace.write_policy(policy_text())
    done = workspace.run("serve", *arguments)
    assert done.returncode == 2
    assert arguments[0] in done.stderr


def test_the_log_can_be_json(workspace: Workspace) -> None:
    workspace.write_policy(policy_text())
    serving = workspace.serve("--log-format", "json")
    serving.signal(signal.SIGTERM)
    assert serving.wait() == 0
    lines = serving.log().splitlines()
    assert lines
    assert all(isinstance(json.loads(line), dict) for line in lines)


def refuses_connections(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return False
    except OSError:
        return True
