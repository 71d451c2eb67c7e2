"""policy, proxy, doctor, ca."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from cloned_proxy.store.workspaces.keys import load_or_create_key
from tests.cli.program import Workspace, policy_text

PACK = """\
id: demo-pack
allowlists:
  egress_domains: [api.example.com, "*.example.net"]
  egress_by_tool:
    demo.tool@v1: [tool.example.com]
"""


def test_check_tells_a_good_file_from_a_bad_one(workspace: Workspace, tmp_path: Path) -> None:
    workspace.write_policy(policy_text(allow=["api.example.com"]))
    assert workspace.json("policy", "check")["ok"] is True
    bad = tmp_path / "bad.yaml"
    bad.write_text("version: 1\nglobal:\n  allow: ['*.com', 'https://x.example/']\n")
    done = workspace.call("policy", "check", str(bad))
    assert done.returncode == 2
    assert "bad.yaml:3" in done.stderr
    problems = workspace.json("policy", "check", str(bad), code=2)["problems"]
    assert [problem["path"] for problem in problems] == ["global.allow[0]", "global.allow[1]"]
    assert all(problem["line"] == 3 and problem["message"] for problem in problems)


def test_diff_shows_what_a_file_would_change(workspace: Workspace, tmp_path: Path) -> None:
    workspace.write_policy(policy_text(allow=["stays.example.com", "goes.example.com"]))
    other = tmp_path / "other.yaml"
    other.write_text(policy_text(allow=["stays.example.com", "comes.example.com"]))
    changed = workspace.json("policy", "diff", str(other))
    assert [rule["host"] for rule in changed["added"]] == ["comes.example.com"]
    assert [rule["host"] for rule in changed["removed"]] == ["goes.example.com"]
    text = workspace.call("policy", "diff", str(other)).stdout
    assert "+" in text
    assert "stays.example.com" not in text


QUIET = """\
version: 1
anonymous: deny
global:
  allow:
    - {host: api.example.com, ports: [443], inject: {header: Authorization, value: "Bearer ${vault:old}"}}
    - {host: plain.example.com, ports: [443], inject: {header: Authorization, value: "${vault:old}"}}
tools:
  demo.tool@v1:
    inherit_global: false
    allow: [{host: lease.example.com, max_uses: 1, idle: 120m}]
    limits: {concurrent: 2}
tests:
  - {tool: demo.tool@v1, deny: ["https://example.net/"]}
"""
OPEN = """\
version: 1
anonymous: deny
global:
  allow:
    - host: api.example.com
      ports: [443]
      inject: {header: Authorization, value: "Bearer ${vault:new}", redact_echo: false}
    - {host: plain.example.com, ports: [443]}
tools:
  demo.tool@v1:
    mode: report
    on_deny: ask
    hold: 20s
    may_request: [self, global]
    allow: [{host: lease.example.com, max_uses: 9, idle: 90s}]
"""


def test_diff_tells_every_change_that_opens_something(workspace: Workspace, tmp_path: Path) -> None:
    workspace.write_policy(QUIET)
    other = tmp_path / "other.yaml"
    other.write_text(OPEN)
    rule = "global: allow api.example.com:443 inject Authorization"
    assert workspace.json("policy", "diff", str(other))["settings"] == {
        "tools.demo.tool@v1.mode": [None, "report"],
        "tools.demo.tool@v1.inherit_global": [False, True],
        "tools.demo.tool@v1.on_deny": ["refuse", "ask"],
        "tools.demo.tool@v1.hold": [0.0, 20.0],
        "tools.demo.tool@v1.may_request": [["self"], ["global", "self"]],
        "tools.demo.tool@v1.limits.concurrent": [2, None],
        f"{rule}: inject.redact_echo": [True, False],
        f"{rule}: inject.value": ["the one in use", "another"],
        "demo.tool@v1: allow lease.example.com idle 90s: max_uses": [1, 9],
        "demo.tool@v1: allow lease.example.com idle 90s: idle": ["2h", "90s"],
        "tests": [[{"tool": "demo.tool@v1", "allow": [], "deny": ["https://example.net/"]}], []],
    }
    text = workspace.call("policy", "diff", str(other)).stdout
    assert "~ tools.demo.tool@v1.limits.concurrent: 2 -> not set\n" in text
    assert "vault" not in text, "a value may hold a secret"
    changes = [line[2:] for line in text.splitlines() if line[0] in "+-"]
    assert changes == [
        "global: allow plain.example.com:443 inject Authorization",
        "global: allow plain.example.com:443",
    ]


def test_diff_of_the_same_policy_is_empty(workspace: Workspace, tmp_path: Path) -> None:
    workspace.write_policy(OPEN)
    other = tmp_path / "other.yaml"
    other.write_text(f"# only a comment\n{OPEN}")
    done = workspace.call("policy", "diff", str(other))
    assert (done.returncode, done.stdout) == (0, "")
    assert "no difference" in done.stderr


def test_import_reads_a_policy_pack(workspace: Workspace, tmp_path: Path) -> None:
    workspace.write_policy(policy_text())
    pack = tmp_path / "pack.yaml"
    pack.write_text(PACK)
    done = workspace.call("policy", "import", str(pack))
    assert done.returncode == 0, done.stderr
    hosts = {rule["host"] for rule in workspace.json("list")["rules"]}
    assert {"api.example.com", "*.example.net", "tool.example.com"} <= hosts


def test_the_proxy_is_the_default_until_it_is_set_and_the_environment_wins(workspace: Workspace) -> None:
    workspace.write_policy(policy_text())
    assert workspace.json("proxy")["effective"] == "http://127.0.0.1:8081"
    assert workspace.run("proxy", "--set", "http://127.0.0.1:9000").returncode == 0
    assert workspace.json("proxy") == {
        "workspace": "http://127.0.0.1:9000",
        "environment": None,
        "serving": None,
        "effective": "http://127.0.0.1:9000",
    }
    done = workspace.run("proxy", "--json", env={"CLONED_EGRESS_PROXY": "http://127.0.0.1:9001"})
    assert '"effective": "http://127.0.0.1:9001"' in done.stdout
    assert workspace.run("proxy", "--clear").returncode == 0
    assert workspace.json("proxy")["workspace"] is None


def test_setting_the_proxy_keeps_the_rest_of_the_file(workspace: Workspace) -> None:
    workspace.write_policy(policy_text())
    config = workspace.path / "config.yaml"
    config.write_text("# mine\nproxy:\n  idle_timeout: 60.0  # short\n")
    config.chmod(0o600)
    assert workspace.call("proxy", "--set", "http://127.0.0.1:9000").returncode == 0
    assert "# mine" in config.read_text()
    assert "# short" in config.read_text()


def test_doctor_reports_each_check_with_its_fix(workspace: Workspace) -> None:
    workspace.write_policy(policy_text())
    told = workspace.json("doctor")
    assert {check["status"] for check in told["checks"]} <= {"ok", "warn"}
    assert {"python", "workspace", "policy", "state", "open files"} <= {check["name"] for check in told["checks"]}
    assert all(check["fix"] for check in told["checks"] if check["status"] != "ok")


@pytest.mark.parametrize("damage", ["policy", "permissions"])
def test_doctor_fails_on_what_would_keep_serve_from_starting(workspace: Workspace, damage: str) -> None:
    workspace.write_policy(policy_text() if damage == "permissions" else "version: 7\n")
    load_or_create_key(workspace.path / "identity.key")
    if damage == "permissions":
        (workspace.path / "identity.key").chmod(0o644)
    told = workspace.json("doctor", code=1)
    failed = [check for check in told["checks"] if check["status"] == "fail"]
    assert failed
    assert all(check["fix"] for check in failed)


def test_doctor_names_open_files_but_not_those_of_tools_whom_its_fix_would_lock_out(workspace: Workspace) -> None:
    """A tool's own user writes into its kept home, and into the directory of a run; both are closed as a whole."""

    def permissions() -> tuple[str, str, str]:
        (found,) = [check for check in workspace.json("doctor")["checks"] if check["name"] == "permissions"]
        return found["status"], found["detail"], found["fix"]

    workspace.write_policy(policy_text())
    for name in ("homes/a@v1/home/.claude.json", "run/one/scratch/made"):
        file = workspace.path / name
        file.parent.mkdir(parents=True)
        file.write_text("")
        file.chmod(0o666)
        workspace.path.joinpath(name.split("/")[0]).chmod(0o700)
    assert permissions()[0] == "ok"
    open_file = workspace.path / "my notes"
    open_file.write_text("")
    open_file.chmod(0o644)
    (workspace.path / "homes").chmod(0o755)
    status, detail, fix = permissions()
    assert (status, detail) == ("warn", "2 open to other users: homes, my notes")
    subprocess.run(fix, shell=True, check=True)
    assert permissions()[0] == "ok"
    assert (workspace.path / "homes/a@v1/home/.claude.json").stat().st_mode & 0o777 == 0o666


def test_the_ca_is_printed_for_clients_to_trust(workspace: Workspace) -> None:
    workspace.write_policy(policy_text())
    path = Path(workspace.call("ca", "path").stdout.strip())
    assert path.read_text().startswith("-----BEGIN CERTIFICATE-----")
    assert "PRIVATE" not in path.read_text()
    assert str(path) in workspace.call("ca", "install-hint").stdout


def test_where_the_ca_is_comes_as_json(workspace: Workspace) -> None:
    workspace.write_policy(policy_text())
    path = workspace.call("ca", "path").stdout.strip()
    assert workspace.json("ca", "path") == {"certificate": path}
    told = workspace.json("ca", "install-hint")
    assert told["certificate"] == path
    assert Path(told["bundle"]).is_file()
    assert told["hint"] == workspace.call("ca", "install-hint").stdout.rstrip("\n")


def _check(workspace: Workspace, name: str) -> dict[str, str]:
    (found,) = [check for check in workspace.json("doctor")["checks"] if check["name"] == name]
    checked: dict[str, str] = found
    return checked


def test_doctor_says_ok_for_the_ports_of_our_own_serve(workspace: Workspace) -> None:
    workspace.write_policy(policy_text())
    serving = workspace.serve()
    assert _check(workspace, "proxy port")["detail"] == f"127.0.0.1:{serving.port}: our own serve"
    assert _check(workspace, "metrics port")["detail"] == f"127.0.0.1:{serving.metrics_port}: our own serve"
    assert {_check(workspace, f"{name} port")["status"] for name in ("proxy", "control", "metrics")} == {"ok"}


def test_doctor_warns_of_keys_in_git(workspace: Workspace) -> None:
    def git(*words: str) -> None:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@example.com", *words]
        subprocess.run(command, cwd=workspace.path.parent, check=True, capture_output=True)

    workspace.write_policy(policy_text())
    assert not [check for check in workspace.json("doctor")["checks"] if check["name"] == "git"]
    git("init", "--quiet")
    load_or_create_key(workspace.path / "identity.key")
    assert "`git add` takes its keys" in _check(workspace, "git")["detail"]
    (workspace.path / ".gitignore").write_text("*\n")
    (workspace.path / ".gitignore").chmod(0o600)
    assert _check(workspace, "git")["status"] == "ok"
    git("add", "--force", "ws/identity.key")
    tracked = _check(workspace, "git")
    assert (tracked["status"], "identity.key" in tracked["detail"]) == ("warn", True)
    assert "rm --cached" in tracked["fix"]


def test_doctor_names_a_rule_that_is_too_wide(workspace: Workspace) -> None:
    workspace.write_policy(policy_text(allow=["{host: '*.example.com', ports: [5432], protocols: [tcp]}"]))
    found = _check(workspace, "policy")
    assert (found["status"], "lets anything pass" in found["detail"]) == ("warn", True)
