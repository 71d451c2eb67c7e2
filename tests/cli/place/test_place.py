"""Commands that write in a directory without a workspace: none comes about by chance, and the served one is named."""

from __future__ import annotations

import os
import pty
import subprocess
from pathlib import Path

import pytest

from cloned_proxy.store.workspaces.serving import serving_now
from tests.cli import forkserver
from tests.cli.program import PROGRAM, Workspace, policy_text


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A directory without a workspace, beside the one that is served."""
    directory = tmp_path / "elsewhere"
    directory.mkdir()
    return directory


def _run(workspace: Workspace, elsewhere: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in workspace.environment.items() if k != "CLONED_WORKSPACE"}
    return forkserver.run([PROGRAM, *words], env=environment, cwd=elsewhere)


def _at_a_terminal(workspace: Workspace, elsewhere: Path, answer: str, *words: str) -> tuple[int, str]:
    """The exit code, and all that the terminal showed."""
    environment = {k: v for k, v in workspace.environment.items() if k != "CLONED_WORKSPACE"}
    ours, theirs = pty.openpty()
    os.write(ours, f"{answer}\n".encode())
    with subprocess.Popen([PROGRAM, *words], env=environment, cwd=elsewhere, stdin=theirs, stdout=theirs,
                          stderr=theirs) as process:  # fmt: skip
        os.close(theirs)
        shown = b""
        try:
            while piece := os.read(ours, 4096):
                shown += piece
        except OSError:  # the other end is closed: the program has ended
            pass
        os.close(ours)
        return process.wait(30), shown.decode()


WRITING = [
    ("allow", "a.example.com"),
    ("deny", "a.example.com"),
    ("allow", "a.example.com", "--dry-run"),
    ("token", "demo@v1"),
    ("pair",),
    ("vault", "set", "llm.api_key"),
    ("ca", "path"),
    ("proxy", "--set", "http://127.0.0.1:9"),
]


@pytest.mark.parametrize("words", [*WRITING, ("policy", "check")], ids=" ".join)
def test_a_script_gets_no_second_workspace(workspace: Workspace, elsewhere: Path, words: tuple[str, ...]) -> None:
    done = _run(workspace, elsewhere, *words)
    assert done.returncode == 2
    assert "there is no workspace here" in done.stderr
    assert "cloned-proxy init" in done.stderr
    assert "--workspace" in done.stderr
    assert list(elsewhere.iterdir()) == []


def test_the_served_workspace_is_named_and_can_be_used_from_anywhere(workspace: Workspace, elsewhere: Path) -> None:
    workspace.write_policy(policy_text())
    serving = workspace.serve()
    for words in (("allow", "a.example.com"), ("remove", "a.example.com"), ("list",)):
        done = _run(workspace, elsewhere, *words)
        assert done.returncode == 2
        named = f"the proxy on 127.0.0.1:{serving.port} serves {workspace.path}: add `--workspace {workspace.path}`"
        assert named in done.stderr
    assert _run(workspace, elsewhere, "allow", "a.example.com", "--workspace", str(workspace.path)).returncode == 0
    assert [rule["host"] for rule in workspace.json("list")["rules"]] == ["a.example.com"]
    code, shown = _at_a_terminal(workspace, elsewhere, "y", "allow", "b.example.com")
    assert code == 0, shown
    assert "Use that one?" in shown
    assert [rule["host"] for rule in workspace.json("list")["rules"]] == ["a.example.com", "b.example.com"]
    assert list(elsewhere.iterdir()) == []
    own = _run(workspace, elsewhere, "allow", "c.example.com", "--workspace", "own")
    assert own.returncode == 0, own.stderr
    assert f"no proxy serves {elsewhere / 'own'} now; the proxy on 127.0.0.1:{serving.port}" in own.stderr


def test_a_person_may_make_one_and_it_serves_what_was_allowed(workspace: Workspace, elsewhere: Path) -> None:
    code, shown = _at_a_terminal(workspace, elsewhere, "n", "allow", "a.example.com")
    assert (code, list(elsewhere.iterdir())) == (2, []), shown
    code, shown = _at_a_terminal(workspace, elsewhere, "y", "allow", "a.example.com")
    assert code == 0, shown
    text = (elsewhere / ".cloned" / "policy.yaml").read_text()
    assert "\nanonymous: challenge " in text
    assert "    - a.example.com\n" in text
    assert "example.com/" not in text, "nobody asked for the example"
    assert _run(workspace, elsewhere, "explain", "https://a.example.com/").returncode == 0


def test_an_edit_of_a_file_that_the_running_proxy_does_not_follow_is_refused(workspace: Workspace) -> None:
    workspace.write_policy(policy_text())
    other = workspace.path / "other.yaml"
    other.write_text(policy_text())
    workspace.serve("--policy", str(other))
    done = workspace.run("allow", "a.example.com")
    assert done.returncode == 2
    assert f"--policy {other}" in done.stderr
    assert workspace.run("allow", "a.example.com", "--policy", str(other)).returncode == 0
    assert workspace.run("allow", "a.example.com", "--policy", str(workspace.policy)).returncode == 0


@pytest.mark.parametrize("taken", ["proxy", "control", "metrics"])
def test_a_port_of_another_workspace_says_how_to_serve_beside_it(
    workspace: Workspace, elsewhere: Path, taken: str
) -> None:
    workspace.write_policy(policy_text())
    workspace.serve("--control", "127.0.0.1:0")
    (served,) = serving_now(environ=workspace.environment)
    option = "listen" if taken == "proxy" else taken
    places = {"listen": "127.0.0.1:0", "control": "off", "metrics": "off"} | {option: getattr(served, taken)}
    done = _run(workspace, elsewhere, "serve", *(f"--{name}={place}" for name, place in places.items()))
    assert done.returncode == 1
    assert f"serves {workspace.path}, and `cloned-proxy serve --listen 127.0.0.1:0" in done.stderr


def test_an_image_for_a_tool_of_somebody_elses_workspace_is_not_built_first(workspace: Workspace) -> None:
    """It takes minutes, and only then would anybody learn that it is no use."""
    workspace.write_policy(policy_text())
    workspace.path.chmod(0o777)
    workspace.environment["DOCKER_HOST"] = f"unix://{workspace.path}/no-engine.sock"
    done = workspace.run("image", "build", "--npm", "a-package@1.0.0", "--tool", "a.tool@v1")
    assert done.returncode == 2
    assert f"others can write the workspace; run `chmod 700 {workspace.path}`" in done.stderr
