"""`mcp wrap` and `unwrap` as a person types them: what is shown, what is written, what a mistake says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cloned_proxy.store.policyfile.policy_file import load_policy
from tests.cli.program import PROGRAM, Workspace

TEXT = """{
  "mcpServers": {
    // what remembers
    "memory": {"command": "mcp-server-memory", "env": {"KEY": "s3cret"}},
  }
}
"""


@pytest.fixture
def file(workspace: Workspace) -> Path:
    assert workspace.call("init", "--yes").returncode == 0
    path = workspace.path.parent / ".mcp.json"
    path.write_text(TEXT)
    return path


def test_wrap_shows_every_change_and_unwrap_takes_it_back(workspace: Workspace, file: Path) -> None:
    done = workspace.run("mcp", "wrap", str(file))
    assert done.returncode == 0, done.stderr
    args = json.dumps(["mcp", "run", "memory", "--workspace", str(workspace.path)])
    assert f'"memory": {{"command": "{PROGRAM}", "args": {args}, "env": {{"KEY": "s3cret"}}}},' in file.read_text()
    assert f"+++ {workspace.path}/mcp.yaml" in done.stdout
    assert "+  mcp.memory@v1:" in done.stdout
    assert "s3cret" not in done.stdout + done.stderr
    assert "mcp check memory" in done.stderr
    (server,) = workspace.json("mcp", "list")
    assert (server["name"], server["tool"], server["env"], server["files"]) == (
        "memory", "mcp.memory@v1", ["KEY"], [str(file)]
    )  # fmt: skip
    assert workspace.call("mcp", "unwrap", str(file)).returncode == 0
    assert file.read_text() == TEXT
    assert workspace.json("mcp", "list") == []


def test_a_variable_that_came_since_is_said_to_be_taken_over(workspace: Workspace, file: Path) -> None:
    assert workspace.call("mcp", "wrap", str(file)).returncode == 0
    again = workspace.call("mcp", "wrap", str(file))
    assert (again.returncode, "nothing to change" in again.stderr) == (0, True)
    file.write_text(file.read_text().replace('"KEY"', '"FILE": "/home/tool/it", "KEY"'))
    done = workspace.call("mcp", "wrap", str(file))
    assert (done.returncode, "nothing to change" in done.stderr) == (0, False)
    assert "taken over at the server's next start" in done.stderr
    (server,) = workspace.json("mcp", "list")
    assert sorted(server["env"]) == ["FILE", "KEY"]


@pytest.mark.parametrize("name", [".mcp.json", "config.toml"])
def test_a_key_among_the_arguments_is_shown_nowhere_and_told_of(workspace: Workspace, file: Path, name: str) -> None:
    """Not before the change, not after it, and not when it is taken back."""
    args = [
        "srv.py",
        "--api-key",
        "first-of-the-keys",
        "--token=second-of-them",
        "ghp_0123456789abcdefghij",
        "--port=81",
    ]
    if name.endswith(".toml"):
        text = f'[mcp_servers.keyed]\ncommand = "python3"\nargs = {json.dumps(args)}\n'
    else:
        text = json.dumps({"mcpServers": {"keyed": {"command": "python3", "args": args}}})
    path = file.with_name(name)
    path.write_text(text)
    done = [
        workspace.run("mcp", "wrap", str(path), "--dry-run"), workspace.run("mcp", "wrap", str(path)),
        workspace.run("mcp", "list"), workspace.run("mcp", "unwrap", str(path)),
    ]  # fmt: skip
    assert [each.returncode for each in done] == [0, 0, 0, 0], done
    told = "".join(each.stdout + each.stderr for each in done)
    assert [key for key in ("first-of", "second-of", "ghp_") if key in told] == []
    assert told.count("srv.py") > 3, "what is no key is shown"
    assert told.count("--port=81") > 3
    assert "a key stands in its `args`" in done[1].stderr
    assert path.read_text() == text


def test_a_dry_run_shows_the_same_and_writes_nothing(workspace: Workspace, file: Path) -> None:
    before = {path: path.read_bytes() for path in workspace.path.parent.rglob("*") if path.is_file()}
    shown = workspace.call("mcp", "wrap", str(file), "--dry-run")
    assert "nothing written" in shown.stderr
    assert {path: path.read_bytes() for path in workspace.path.parent.rglob("*") if path.is_file()} == before
    assert workspace.call("mcp", "wrap", str(file)).stdout == shown.stdout
    once = file.read_bytes()
    assert workspace.call("mcp", "unwrap", str(file), "--dry-run").returncode == 0
    assert file.read_bytes() == once


def test_nothing_is_allowed_to_a_wrapped_server_not_even_what_everybody_may(workspace: Workspace, file: Path) -> None:
    workspace.call("allow", "for-all.example.com")
    workspace.call("mcp", "wrap", str(file))
    assert workspace.call("explain", "https://for-all.example.com/").returncode == 0
    assert workspace.call("explain", "https://for-all.example.com/", "--tool", "mcp.memory@v1").returncode == 1
    workspace.call("allow", "its-own.example.com", "--tool", "mcp.memory@v1")
    assert workspace.call("explain", "https://its-own.example.com/", "--tool", "mcp.memory@v1").returncode == 0
    workspace.call("mcp", "unwrap", str(file))
    workspace.call("mcp", "wrap", str(file))
    scope = load_policy(workspace.policy, 0.0).scope_of("mcp.memory@v1")
    assert [rule.pattern.value for rule in scope.allow.rules] == ["its-own.example.com"]


def test_report_lets_everything_pass_and_records_it(workspace: Workspace, file: Path) -> None:
    workspace.call("mcp", "wrap", str(file), "--report")
    assert workspace.call("explain", "https://any.example.com/", "--tool", "mcp.memory@v1").returncode == 0
    assert workspace.call("explain", "https://any.example.com/").returncode == 1


def test_an_entry_that_was_changed_since_stays_and_is_named(workspace: Workspace, file: Path) -> None:
    workspace.call("mcp", "wrap", str(file))
    file.write_text(file.read_text().replace(str(PROGRAM), "mine"))
    done = workspace.call("mcp", "unwrap", str(file))
    assert done.returncode == 1
    assert "memory: its entry is not as `" in done.stderr
    assert '"command": "mine"' in file.read_text()


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("wrap", "nowhere.json"), 2, "create it"),
        (("wrap", "broken.json"), 2, "put it right by hand"),
        (("unwrap", ".mcp.json"), 2, "was not wrapped in"),
        (("run", "nobody"), 2, "there is no MCP server 'nobody' here"),
        (("check", "nobody"), 2, "there is no MCP server 'nobody' here"),
    ],
)
def test_a_mistake_says_what_to_do(
    workspace: Workspace, file: Path, words: tuple[str, ...], code: int, told: str
) -> None:
    broken = file.with_name("broken.json")
    broken.write_text('{"mcpServers": {"a"}}')
    named = [str(file.with_name(word)) if word.endswith(".json") else word for word in words]
    done = workspace.call("mcp", *named)
    assert (done.returncode, told in done.stderr) == (code, True), done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert (file.read_text(), broken.read_text()) == (TEXT, '{"mcpServers": {"a"}}')


def test_a_list_of_servers_that_is_wrong_names_the_line(workspace: Workspace, file: Path) -> None:
    (workspace.path / "mcp.yaml").write_text("servers:\n  a:\n    tool: a@v1\n    command: x\n    projects: rw\n")
    done = workspace.call("mcp", "wrap", str(file))
    assert done.returncode == 2
    assert "mcp.yaml:5: servers.a.projects" in done.stderr
    assert file.read_text() == TEXT
