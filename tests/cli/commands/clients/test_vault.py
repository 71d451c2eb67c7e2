from __future__ import annotations

import json
import os
import pty
import subprocess
from pathlib import Path

import pytest

from tests.cli.program import PROGRAM, Workspace

CANARY = "sk-canary-77aa"


def _set(
    workspace: Workspace, name: str, value: str = CANARY, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return workspace.run("vault", "set", name, given=value, env=env)


def test_set_list_remove(workspace: Workspace) -> None:
    done = _set(workspace, "llm.api_key", f"{CANARY}\n")
    assert (done.returncode, done.stdout) == (0, "")
    listed = workspace.call("vault", "list")
    assert listed.stdout.splitlines()[1].startswith("llm.api_key  20")
    as_json = workspace.call("vault", "list", "--json")
    assert [sorted(entry) for entry in json.loads(as_json.stdout)] == [["canary", "name", "set"]]
    assert all(CANARY not in text for text in (done.stderr, listed.stdout, listed.stderr, as_json.stdout))
    assert workspace.call("vault", "remove", "llm.api_key").returncode == 0
    assert workspace.call("vault", "list", "--json").stdout == "[]\n"


def test_a_prompt_shows_nothing_of_what_is_typed(workspace: Workspace) -> None:
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [PROGRAM, "vault", "set", "llm.api_key"],
        env=workspace.environment,
        stdin=child,
        stdout=child,
        stderr=child,
        start_new_session=True,
    )
    os.close(child)
    shown = b""
    while b"not shown" not in shown:
        shown += os.read(parent, 1024)
    os.write(parent, f"{CANARY}\n".encode())
    try:
        while data := os.read(parent, 1024):
            shown += data
    except OSError:  # EIO: the other side is closed
        pass
    os.close(parent)
    assert process.wait(60) == 0
    assert CANARY.encode() not in shown
    assert "llm.api_key" in workspace.call("vault", "list").stdout


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("LLM", CANARY, "not the name of a secret"),
        ("a", "", "empty"),
        ("a", f"{CANARY}\nX-Evil: 1\n", "one line"),
        ("a", f"{CANARY}é", "ASCII"),
    ],
)
def test_bad_input_is_exit_2_and_one_line_that_does_not_tell_the_value(
    workspace: Workspace, name: str, value: str, message: str
) -> None:
    done = _set(workspace, name, value)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert message in done.stderr
    assert CANARY not in done.stderr
    assert not (workspace.path / "vault.age").exists()


def test_a_value_has_no_place_in_argv(workspace: Workspace) -> None:
    done = workspace.call("vault", "set", "llm.api_key", CANARY)
    assert done.returncode == 2
    assert not workspace.path.exists()


def test_what_is_not_there_cannot_be_removed(workspace: Workspace) -> None:
    workspace.path.mkdir(mode=0o700)
    assert "no vault yet" in workspace.call("vault", "remove", "a").stderr
    _set(workspace, "b")
    done = workspace.call("vault", "remove", "a")
    assert (done.returncode, "vault list" in done.stderr) == (2, True)


def test_the_key_can_live_in_a_keyring(workspace: Workspace, tmp_path: Path) -> None:
    """The `keyring` package is real, its backend is a labelled stand-in."""
    workspace.path.mkdir(mode=0o700)
    (workspace.path / "config.yaml").write_text("vault: {key: keyring}\n")
    environ = {
        "PYTHON_KEYRING_BACKEND": "tests.store.vault.keyring_stand_in.FileBackend",
        "PYTHONPATH": str(Path(__file__).parents[4]),
        "STAND_IN_KEYRING": str(tmp_path / "ring"),
    }
    done = _set(workspace, "llm.api_key", env=environ)
    assert done.returncode == 0, done.stderr
    assert "AGE-SECRET-KEY-1" in (tmp_path / "ring").read_text()
    assert not (workspace.path / "vault.key").exists()
    assert _set(workspace, "other", env=environ).returncode == 0
    locked = _set(workspace, "third", env=environ | {"STAND_IN_KEYRING": "locked"})
    assert (locked.returncode, "does not answer (RuntimeError)" in locked.stderr) == (2, True)
    assert "AGE-SECRET" not in locked.stderr
    (tmp_path / "ring").write_text("{}")
    assert "there is no key" in _set(workspace, "third", env=environ).stderr


def _vault_check(workspace: Workspace, **env: str) -> dict[str, str]:
    done = workspace.run("doctor", "--json", env=env)
    (check,) = [check for check in json.loads(done.stdout)["checks"] if check["name"] == "vault"]
    return dict(check)


def test_doctor_names_the_secret_that_a_rule_misses_and_a_vault_that_does_not_open(workspace: Workspace) -> None:
    inject = '{header: Authorization, value: "Bearer ${vault:llm.api_key}"}'
    workspace.write_policy(
        f"version: 1\nglobal: {{allow: [{{host: a.example.com, ports: [443], inject: {inject}}}]}}\n"
    )
    missing = _vault_check(workspace)
    assert (missing["status"], missing["fix"]) == ("warn", "`cloned-proxy vault set llm.api_key`")
    assert "policy.yaml:2 global.allow[0] injects llm.api_key" in missing["detail"]
    assert _vault_check(workspace, LLM_API_KEY=CANARY)["status"] == "ok"
    _set(workspace, "llm.api_key")
    assert _vault_check(workspace)["detail"] == "secrets: 1, rules that inject: 1"
    (workspace.path / "vault.key").chmod(0o644)
    broken = _vault_check(workspace)
    assert (broken["status"], broken["fix"].startswith("run `chmod 600")) == ("fail", True)


def test_a_short_secret_is_told(workspace: Workspace) -> None:
    short, long = _set(workspace, "a", "short-7q"), _set(workspace, "b", "sk-canary/4f+9=0aQ")
    assert "requests are not searched for it on its way to other hosts: it has fewer than 12" in short.stderr
    assert "short-7q" not in short.stderr
    assert "not searched" not in long.stderr


def test_a_canary_is_shown_once(workspace: Workspace) -> None:
    done = workspace.call("vault", "canary", "bait.github")
    value = done.stdout.strip()
    assert (done.returncode, len(value), value[:3]) == (0, 43, "sk-")
    assert value not in done.stderr
    listed = workspace.call("vault", "list")
    assert listed.stdout.splitlines()[1].startswith("bait.github ")
    assert listed.stdout.rstrip().endswith("canary")
    assert value not in listed.stdout
    assert json.loads(workspace.call("vault", "list", "--json").stdout)[0]["canary"] is True
    again = workspace.call("vault", "canary", "bait.github")
    assert (again.returncode, again.stdout) == (2, "")
    assert "vault remove bait.github" in again.stderr


def test_a_canary_goes_where_the_user_wants_it(workspace: Workspace, tmp_path: Path) -> None:
    place = tmp_path / "decoy.env"
    done = workspace.call("vault", "canary", "bait", "--write", str(place))
    assert (done.returncode, done.stdout) == (0, "")
    assert place.stat().st_mode & 0o777 == 0o600
    assert place.read_text().startswith("sk-")
    assert place.read_text().strip() not in done.stderr
    for path, message in ((place, "is there already"), (tmp_path / "none" / "x", "cannot be made")):
        refused = workspace.call("vault", "canary", "other", "--write", str(path))
        assert refused.returncode == 2
        assert message in refused.stderr
    assert "other" not in workspace.call("vault", "list").stdout
