"""What a person asks first: does it run, by which rules, what was refused, and what to do next."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from pathlib import Path

import pytest

from cloned_proxy.cli.commands.status import overview
from cloned_proxy.program_name import in_this_shell
from cloned_proxy.store.workspaces.workspace import Workspace as Place
from tests.cli.program import PROGRAM, Workspace, eventually, policy_text
from tests.cli.pseudo_terminal import at_terminal, plain

# What `cloned-proxy` and `status` say of the container engine is that of whoever runs the tests: these reach none.
NO_ENGINE = {"DOCKER_HOST": "unix:///nonexistent/docker.sock"}


def test_status_fails_while_nothing_serves(workspace: Workspace) -> None:
    workspace.write_policy(policy_text(allow=["a.example.com"]))
    done = workspace.run("status", env=NO_ENGINE)
    assert done.returncode == 1
    assert "nothing serves this workspace" in done.stdout
    assert re.search(r"^policy .*policy.yaml, mode enforce, rules: 1$", done.stdout, re.MULTILINE)
    told = workspace.json("status", code=1)
    assert (told["serving"], told["addresses"], told["policy"]["rules"]) == (False, None, 1)
    assert not (workspace.path / "state.db").exists(), "status wrote something"


@pytest.mark.parametrize(
    ("engine", "enters", "said"),
    [
        (None, True, "none; one would run in a container"),
        ("Docker 26", False, "none; root starts it: cloned-proxy llm up"),
        ("Docker 26", True, "none; start it: cloned-proxy llm up"),
    ],
)
def test_a_model_is_offered_to_whoever_could_start_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str | None, said: str, *, enters: bool
) -> None:
    monkeypatch.setattr(overview, "may_enter", lambda: enters)
    monkeypatch.setattr(overview, "_engine", lambda: engine)
    *_, last = overview.lines(overview.look(Place(tmp_path / ".cloned"), None))
    assert last == in_this_shell(f"model     {said}")


def test_status_of_a_broken_policy_says_why(workspace: Workspace) -> None:
    workspace.write_policy("version: 7\n")
    done = workspace.call("status", env=NO_ENGINE)
    assert done.returncode == 1
    assert "not valid" in done.stdout
    assert "policy.yaml:1" in done.stdout


def test_status_tells_addresses_policy_and_denials(workspace: Workspace) -> None:
    workspace.write_policy(policy_text(mode="report"))
    serving = workspace.serve("--control", "127.0.0.1:0", "--workers", "2")
    workspace.write_policy(policy_text())
    eventually(lambda: workspace.json("status")["policy"]["mode"] == "enforce", what="the new policy")
    for _ in range(3):
        serving.get("http://denied.example/")
    eventually(lambda: workspace.json("status")["denied_last_hour"] == 3, what="the denials")
    told = workspace.json("status")
    assert told["addresses"] == {
        "proxy": f"127.0.0.1:{serving.port}",
        "control": f"127.0.0.1:{serving.control_port}",
        "metrics": f"127.0.0.1:{serving.metrics_port}",
    }
    assert (told["serving"], told["ready"], told["workers"]) == (True, True, 2)
    (denial,) = told["denials"]
    assert (denial["times"], denial["host"]) == (3, "denied.example")
    assert re.fullmatch(r"[\d-]{10}T[\d:.]{12}Z", denial["at"])
    shown = workspace.run("status", env=NO_ENGINE)
    assert shown.returncode == 0
    assert "no container engine answers" in shown.stdout
    assert "fix: " in shown.stdout
    assert "denied.example" in shown.stdout


@pytest.mark.parametrize("plane", ["auto", "off"])
def test_status_and_doctor_say_that_clients_wait_and_what_for(workspace: Workspace, plane: str) -> None:
    workspace.write_policy(policy_text())
    settings = workspace.path / "config.yaml"
    settings.write_text("proxy: {max_connections: 1, head_timeout: 600.0}\n")
    settings.chmod(0o600)
    serving = workspace.serve("--plane", plane)
    told = workspace.json("status")
    assert told["waiting"] == []
    assert doctor_on_waiting(workspace) == ["ok"]
    with contextlib.ExitStack() as stack:
        # More than room is made for between two looks: somebody waits all the time.
        for _ in range(50):
            stack.enter_context(socket.create_connection(("127.0.0.1", serving.port), timeout=60))
        eventually(lambda: workspace.json("status")["waiting"] == ["max_connections"], what="that clients wait")
    shown = workspace.run("status", env=NO_ENGINE).stdout
    assert re.search(r"^waiting +within the last minute clients have waited for a place \(", shown, re.MULTILINE)
    assert doctor_on_waiting(workspace) == ["warn"]


def doctor_on_waiting(workspace: Workspace) -> list[str]:
    done = workspace.run("doctor", "--json", env=NO_ENGINE)
    return [check["status"] for check in json.loads(done.stdout)["checks"] if check["name"] == "waiting"]


def test_the_program_alone_says_what_to_do_next(workspace: Workspace) -> None:
    assert "cloned-proxy serve" in workspace.run(env=NO_ENGINE).stdout.replace(str(PROGRAM), "cloned-proxy")
    assert not workspace.path.exists()
    workspace.write_policy(policy_text(allow=["a.example.com"]))
    assert "Nothing serves" in workspace.run().stdout
    serving = workspace.serve()
    quiet = workspace.run()
    assert f"curl --proxy http://127.0.0.1:{serving.port} https://a.example.com/" in quiet.stdout
    serving.get("http://denied.example/")
    eventually(lambda: "denied.example" in workspace.run().stdout, what="the denial")
    shown = plain(at_terminal(workspace))
    assert "allow denied.example" in shown
    assert "log --denied" in shown
    assert [line for line in shown.splitlines() if len(line) > 80] == []
