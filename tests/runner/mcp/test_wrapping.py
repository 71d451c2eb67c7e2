"""A wrapped file starts its servers through us and says everything else as before; unwrapped it is what it was."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from cloned_proxy.runner.mcp import jsonc
from cloned_proxy.runner.mcp.client_file import ClientFile
from cloned_proxy.runner.mcp.packages import Package, package_of
from cloned_proxy.runner.mcp.registry import ServerRegistry
from cloned_proxy.runner.mcp.undo import UndoRecord, WrappedServer, unwrap
from cloned_proxy.runner.mcp.wrapping import Plan, ServerStarter, apply_plan, make_plan
from cloned_proxy.store.files.errors import ConflictError, StoreError
from cloned_proxy.store.workspaces.workspace import Workspace
from tests.runner.mcp.client_files import CLAUDE, CODEX, FILES, SECRET, VS_CODE

PROGRAM = ("/opt/bin/cloned-proxy",)


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path / "project" / ".cloned")
    workspace.create()
    return workspace


def written(place: Workspace, name: str, text: str) -> Path:
    path = place.root.parent / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.replace("PROJECT", str(place.root.parent)).encode())
    return path


def wrapped(place: Workspace, path: Path) -> tuple[ClientFile, Plan]:
    """As `mcp wrap` does it, without the policy."""
    file, registry, undo = ClientFile.load(path), ServerRegistry(place), UndoRecord(place)
    starter = ServerStarter(PROGRAM, place.root)
    plan = make_plan(file, registry, starter)
    apply_plan(plan, file, registry, starter)
    undo.remember(
        file,
        [
            WrappedServer(
                each.name, tuple(c for c in file.changes if c.place[: len(each.entry.place)] == each.entry.place)
            )
            for each in plan.wrapped
        ],
    )
    registry.save()
    undo.save()
    file.save()
    return file, plan


def restored(place: Workspace, path: Path) -> bytes:
    undo = UndoRecord(place)
    file = ClientFile.load(path)
    result = unwrap(file, undo.files[str(path)])
    assert result.exact
    return file.text.encode()


def said(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    return tomllib.loads(text) if path.suffix == ".toml" else jsonc.read(text)


def run_args(place: Workspace, name: str) -> list[str]:
    return ["mcp", "run", name, "--workspace", str(place.root)]


@pytest.mark.parametrize("name", FILES)
def test_a_file_comes_back_byte_for_byte(place: Workspace, name: str) -> None:
    path = written(place, name, FILES[name])
    before = path.read_bytes()
    _, plan = wrapped(place, path)
    assert plan.wrapped
    assert path.read_bytes() != before
    assert restored(place, path) == before


@pytest.mark.parametrize("name", FILES)
def test_wrapping_twice_changes_nothing(place: Workspace, name: str) -> None:
    path = written(place, name, FILES[name])
    wrapped(place, path)
    once, list_once = path.read_bytes(), (place.root / "mcp.yaml").read_bytes()
    _, plan = wrapped(place, path)
    assert (plan.wrapped, path.read_bytes(), (place.root / "mcp.yaml").read_bytes()) == ([], once, list_once)


@pytest.mark.parametrize("name", FILES)
def test_only_command_args_and_our_own_variables_change(place: Workspace, name: str) -> None:
    path = written(place, name, FILES[name])
    before = said(path)
    _, plan = wrapped(place, path)
    after = said(path)
    for each in plan.wrapped:
        old, new = before, after
        for key in each.entry.place:
            old, new = old[key], new[key]
        assert (new.pop("command"), new.pop("args")) == (PROGRAM[0], run_args(place, each.name))
        old.pop("command")
        old.pop("args", None)
        for variable in each.words:
            assert new["env"].pop(variable) == each.words[variable]
        if not old.get("env"):
            assert not new.pop("env", {})
            old.pop("env", None)
    assert after == before


@pytest.mark.parametrize("name", FILES)
def test_no_value_of_a_variable_comes_into_our_files_or_onto_the_terminal(place: Workspace, name: str) -> None:
    path = written(place, name, FILES[name])
    file, _ = wrapped(place, path)
    ours = [each.read_bytes() for each in place.root.rglob("*") if each.is_file()]
    assert len(ours) > 2
    assert not any(SECRET.encode() in content for content in ours)
    assert SECRET not in ClientFile.load(path).without_values()
    assert SECRET not in file.diff()


def test_names_of_variables_are_taken_over_but_those_of_the_sandbox_and_of_the_host(place: Workspace) -> None:
    _, plan = wrapped(place, written(place, ".mcp.json", CLAUDE))
    server = ServerRegistry(place).server("with-env")
    assert server.env == ["GITHUB_TOKEN"]
    (each,) = [each for each in plan.wrapped if each.name == "with-env"]
    assert [note.split()[0] for note in each.notes] == ["PATH", "HTTPS_PROXY", "/usr/local/bin/node"]
    assert server.command == "node"


def test_what_a_client_fills_in_comes_as_a_variable_of_our_own(place: Workspace) -> None:
    path = written(place, ".vscode/mcp.json", VS_CODE)
    wrapped(place, path)
    server = ServerRegistry(place).server("local")
    assert server.args == ["${CLONED_MCP_1}", "${CLONED_MCP_2}", "https://not.a/comment"]
    assert server.env == ["LEVEL"]
    env = said(path)["servers"]["local"]["env"]
    assert (env["CLONED_MCP_1"], env["CLONED_MCP_2"]) == ("${workspaceFolder}/server.py", "--key=${input:key}")


def test_codex_passes_variables_by_name(place: Workspace) -> None:
    wrapped(place, written(place, ".codex/config.toml", CODEX))
    assert ServerRegistry(place).server("two-words").env == ["API_KEY", "LOCAL_TOKEN"]


def test_servers_that_nobody_starts_here_are_left(place: Workspace) -> None:
    _, plan = wrapped(place, written(place, ".mcp.json", CLAUDE))
    assert {entry.name: why.split(";")[0] for entry, why in plan.left} == {
        "remote": "is called by its URL",
        "engine": "starts a container by itself, which no sandbox of ours could hold",
    }
    _, plan = wrapped(place, written(place, ".claude.json", FILES[".claude.json"]))
    assert [(entry.name, why) for entry, why in plan.left] == [
        ("there", "belongs to /some/other; wrap it with that project's workspace")
    ]
    assert [each.name for each in plan.wrapped] == ["for-all", "here"]


def test_one_name_in_two_files_is_one_server_only_when_it_is_started_alike(place: Workspace) -> None:
    one = '{"mcpServers": {"memory": {"command": "mem", "env": {"A": "1"}}}}'
    wrapped(place, written(place, "a.json", one))
    wrapped(place, written(place, "b.json", one.replace('"A"', '"B"')))
    wrapped(place, written(place, "c.json", one.replace('"mem"', '"other"')))
    servers = ServerRegistry(place).servers
    assert {name: (server.command, server.env, server.tool) for name, server in servers.items()} == {
        "memory": ("mem", ["A", "B"], "mcp.memory@v1"),
        "memory-2": ("other", ["A"], "mcp.memory-2@v1"),
    }


def test_settings_and_comments_of_the_list_stay(place: Workspace) -> None:
    path = place.root / "mcp.yaml"
    path.write_text("# mine\nservers:\n  memory:\n    tool: m@v1\n    command: mem  # it\n    project: rw\n")
    path.chmod(0o640)
    wrapped(place, written(place, "a.json", '{"mcpServers": {"memory": {"command": "mem", "env": {"A": "1"}}}}'))
    text = path.read_text()
    assert "# mine" in text
    assert "# it" in text
    server = ServerRegistry(place).server("memory")
    assert (server.project, server.tool, server.env) == ("rw", "m@v1", ["A"])
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_server_that_came_since_is_wrapped_as_well_and_all_are_unwrapped(place: Workspace) -> None:
    path = written(place, "a.json", '{"mcpServers": {"one": {"command": "a"}}}')
    wrapped(place, path)
    more = path.read_text()[:-2] + ', "two": {"command": "b"}}}'
    path.write_text(more)
    _, plan = wrapped(place, path)
    assert [each.name for each in plan.wrapped] == ["two"]
    assert restored(place, path) == b'{"mcpServers": {"one": {"command": "a"}, "two": {"command": "b"}}}'


def test_what_somebody_changed_since_is_kept(place: Workspace) -> None:
    path = written(place, "a.json", '{"mcpServers": {"one": {"command": "a"}, "two": {"command": "b"}}}')
    wrapped(place, path)
    document = json.loads(path.read_text())
    document["mcpServers"]["two"]["command"] = "mine"
    document["mcpServers"]["new"] = {"command": "c"}
    path.write_text(json.dumps(document, indent=4))
    file = ClientFile.load(path)
    result = unwrap(file, UndoRecord(place).files[str(path)])
    assert ([each.server for each in result.restored], [each.server for each in result.changed]) == (["one"], ["two"])
    assert not result.exact
    after = json.loads(file.text)["mcpServers"]
    assert after["one"] == {"command": "a"}
    assert after["two"] == {"command": "mine", "args": run_args(place, "two")}
    assert after["new"] == {"command": "c"}


def test_a_link_stays_a_link_and_the_mode_is_kept(place: Workspace, tmp_path: Path) -> None:
    real = tmp_path / "dotfiles" / "mcp.json"
    real.parent.mkdir()
    real.write_text(CLAUDE)
    real.chmod(0o640)
    link = place.root.parent / ".mcp.json"
    link.symlink_to(real)
    file, _ = wrapped(place, link)
    assert link.is_symlink()
    assert file.path == real
    assert real.stat().st_mode & 0o777 == 0o640
    assert real.read_text() != CLAUDE
    assert sorted(each.name for each in real.parent.iterdir()) == ["mcp.json"]
    assert restored(place, real) == CLAUDE.encode()


def test_a_file_that_a_client_wrote_meanwhile_is_not_overwritten(place: Workspace) -> None:
    path = written(place, ".mcp.json", CLAUDE)
    file, registry = ClientFile.load(path), ServerRegistry(place)
    starter = ServerStarter(PROGRAM, place.root)
    apply_plan(make_plan(file, registry, starter), file, registry, starter)
    path.write_text("{}")
    with pytest.raises(ConflictError, match="changed meanwhile"):
        file.save()
    assert path.read_text() == "{}"


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("a.json", "{", "Expecting"),
        ("a.json", "[]", "holds no object"),
        ("a.json", "{}", "no MCP servers here"),
        ("a.json", '{"servers": {"prod": {"host": "x"}}}', "no MCP servers here"),
        ("a.json", '{"mcpServers": []}', "not an object"),
        ("a.json", '{"mcpServers": {"a": {"command": "x"}, "a": {"command": "y"}}}', "'a' stands twice"),
        ("a.json", "[" * 100_000, "too deep|recursion"),
        ("a.toml", "[mcp_servers.a\n", "line 1"),
        ("a.toml", 'mcp_servers = "x"', "not an object"),
    ],
)
def test_a_file_that_is_none_of_a_client_says_so(place: Workspace, name: str, text: str, error: str) -> None:
    path = written(place, name, text)
    with pytest.raises(StoreError, match=error) as raised:
        ClientFile.load(path).entries()
    assert str(raised.value).startswith(str(path))


def test_files_that_a_line_names_are_shown_but_no_home_and_no_system(place: Workspace, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    monkey = {"command": "fs", "args": [str(data), str(place.root.parent / "in"), "/etc", str(Path.home()), "/nowhere"]}
    path = written(place, "a.json", json.dumps({"mcpServers": {"fs": monkey}}))
    _, plan = wrapped(place, path)
    told = {note.split()[0]: note for note in plan.wrapped[0].notes}
    assert set(told) == {str(data), "/etc", str(Path.home())}
    # /tmp belongs to the sandbox: a test's own directory may lie there.
    mounts = [f"{data}:{data}"] if not str(data).startswith("/tmp/") else []
    assert ServerRegistry(place).server("fs").mounts == mounts


@pytest.mark.parametrize(
    ("line", "package"),
    [
        ("npx -y @modelcontextprotocol/server-memory", ("npm", "@modelcontextprotocol/server-memory", None, None, [])),
        ("npx --yes a-server@1.2.3 --port 1", ("npm", "a-server", "1.2.3", None, ["--port", "1"])),
        ("/usr/bin/npx -y a-server@latest -- -v", ("npm", "a-server", None, None, ["-v"])),
        ("npx -y -p @a/b@2 thing x", ("npm", "@a/b", "2", "thing", ["x"])),
        ("npx --package=@a/b -- thing", ("npm", "@a/b", None, "thing", [])),
        ("pnpm dlx a-server", ("npm", "a-server", None, None, [])),
        ("uvx mcp-server-time --local-timezone UTC",
         ("pypi", "mcp-server-time", None, None, ["--local-timezone", "UTC"])),
        ("uvx mcp-server-time==2026.1.26", ("pypi", "mcp-server-time", "2026.1.26", None, [])),
        ("uvx mcp-server-time@latest", ("pypi", "mcp-server-time", None, None, [])),
        ("uvx --from mcp-x[cli]==1 run-x", ("pypi", "mcp-x[cli]", "1", "run-x", [])),
        ("uv tool run mcp-server-time", ("pypi", "mcp-server-time", None, None, [])),
        ("npx -c 'echo hi'", None),
        ("npx", None),
        ("npx -y github:somebody/repo", None),
        ("npx -y ./here", None),
        ("uvx --from git+https://x.example/y y", None),
        ("uv run server.py", None),
        ("node server.js", None),
    ],
)  # fmt: skip
def test_lines_that_fetch_a_package(line: str, package: tuple[Any, ...] | None) -> None:
    command, *args = line.split()
    wanted = None if package is None else (Package(*package[:4]), package[4])
    assert package_of(command, args) == wanted


def test_a_server_that_would_write_beside_its_program_is_told_of_before_it_fails(place: Workspace) -> None:
    line = {"command": "npx", "args": ["-y", "@modelcontextprotocol/server-memory"]}
    path = written(place, ".mcp.json", json.dumps({"mcpServers": {"memory": line}}))
    file, registry = ClientFile.load(path), ServerRegistry(place)
    (each,) = make_plan(file, registry, ServerStarter(PROGRAM, place.root)).wrapped
    (note,) = each.notes
    assert "MEMORY_FILE_PATH" in note
