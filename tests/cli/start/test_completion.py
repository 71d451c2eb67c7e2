"""Completion in real shells, of values that this workspace knows; what no shell may evaluate is not offered."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from cloned_proxy.cli.start.completion import ARGUMENTS, OPTIONS, SEVERAL, VALUED, kind_of
from cloned_proxy.store.workspaces.known_values import KINDS, known
from cloned_proxy.store.workspaces.workspace import Workspace as Place
from tests.cli.program import PROGRAM, TOOL, Workspace, policy_text
from tests.cli.start.test_help import COMMANDS
from tests.cli.start.test_program import HEAVY


def complete(workspace: Workspace, line: str, shell: str = "fish", **more: str) -> list[str]:
    """What the shell is told for the line up to the cursor."""
    environment = {"_CLONED_PROXY_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": f"cloned-proxy {line}"}
    done = workspace.run(env=environment | {"_TYPER_COMPLETE_FISH_ACTION": "get-args"} | more)
    assert done.stderr == ""
    return done.stdout.split("\n")[:-1]


@pytest.fixture
def used(workspace: Workspace) -> Workspace:
    """A workspace with rules, a denied call, two versions, a request and a device."""
    workspace.write_policy(policy_text(allow=["a.example.com", "'*.b.example.com'"], tool_allow=["c.example.com:8443"]))
    text = workspace.policy.read_text().replace(
        "    allow:\n      - c.example.com:8443", "    on_deny: ask\n    allow: []"
    )
    workspace.write_policy(text)
    serving = workspace.serve()
    url = workspace.json("token", TOOL)
    workspace.run("allow", "d.example.com")
    assert serving.get("http://denied.example:8080/").status == 403
    assert serving.get("http://asked.example/", headers={"Proxy-Authorization": f"Bearer {url['token']}"}).status == 403
    assert workspace.run("pair", "--api", "--name", "grafana").returncode == 0
    serving.process.terminate()
    serving.wait()
    return workspace


def test_values_are_those_of_this_workspace(used: Workspace) -> None:
    rules = [rule["id"] for rule in used.json("list")["rules"]]
    versions = [version["version"] for version in used.json("policy", "history")]
    requests = [request["id"] for request in used.json("approvals", "list")]
    devices = [device["id"] for device in used.json("devices")]
    assert (len(rules), len(versions), len(requests), len(devices)) == (3, 2, 1, 1)
    hosts = ["a.example.com", "*.b.example.com", "d.example.com"]

    assert set(complete(used, "remove ")) == {*hosts, *rules}
    assert complete(used, "remove a.example.com d") == ["d.example.com"]
    assert complete(used, "remove a.example.com ") == [*hosts[1:], *complete(used, "remove r-")]
    assert complete(used, "allow ") == ["asked.example", "denied.example:8080"]
    assert complete(used, "explain de") == ["denied.example:8080"]
    assert complete(used, "token ") == [TOOL]
    assert complete(used, "list --tool ") == [TOOL]
    assert complete(used, "allow x.example --for 5m --tool d") == [TOOL]
    assert complete(used, "policy restore ") == versions
    assert complete(used, f"policy show {versions[0][:3]}")[:1] == [versions[0]]
    assert complete(used, "approvals approve --for 5m ") == requests
    assert complete(used, "devices revoke ") == devices
    assert complete(used, "run ") == ["pipeline.folder.summary", "pipeline.research.report"]
    assert set(complete(used, "preset show ")) == {preset["name"] for preset in used.json("preset", "list")}
    assert "github-read" in complete(used, "allow --preset git")


def test_the_workspace_that_was_named_is_the_one_that_is_read(used: Workspace, tmp_path: Path) -> None:
    elsewhere = {"CLONED_WORKSPACE": str(tmp_path / "none")}
    assert complete(used, "token ", **elsewhere) == [""]
    assert complete(used, f"token --workspace {used.path} ", **elsewhere) == [TOOL]


def test_names_of_commands_and_options_still_come_from_typer(workspace: Workspace) -> None:
    assert [line.partition("\t")[0] for line in complete(workspace, "exp")] == ["explain"]
    assert any(line.startswith("--denied") for line in complete(workspace, "log --den"))


def test_setup_offers_its_programs(workspace: Workspace) -> None:
    offered = {line.partition("\t")[0] for line in complete(workspace, "setup c")}
    assert offered == {"claude-code", "codex", "cursor"}


def test_nothing_is_offered_where_nothing_is_known(workspace: Workspace) -> None:
    assert complete(workspace, "remove ") == [""]
    environment = {"_CLONED_PROXY_COMPLETE": "complete_fish", "_TYPER_COMPLETE_ARGS": "cloned-proxy remove "}
    assert workspace.run(env=environment | {"_TYPER_COMPLETE_FISH_ACTION": "is-args"}).returncode == 1
    assert complete(workspace, "remove ", "zsh") == ["_files"]
    assert not workspace.path.exists(), "completion must write nothing"


def test_what_a_caller_wrote_is_not_evaluated_by_a_shell(workspace: Workspace) -> None:
    """zsh evaluates what it is offered, and hosts and tools are read from files that others may have written."""
    workspace.write_policy(
        "version: 1\nglobal:\n  allow:\n    - \"a'$(touch gone)'.example\"\n    - '`touch gone`'\n    - good.example\n"
        'tools:\n  "x\')) ; touch gone ; ((": {}\n  ok@v1: {}\n'
    )
    place = Place(workspace.path)
    assert known("rules", place) == ["good.example"]
    assert known("tools", place) == ["ok@v1"]
    assert complete(workspace, "remove ", "zsh") == ["_arguments '*: :((\"good.example\"))'"]


def test_a_damaged_workspace_disturbs_nobody(workspace: Workspace) -> None:
    workspace.write_policy("global: [\n")
    (workspace.path / "state.db").write_bytes(b"no database")
    for kind in KINDS:
        assert known(kind, Place(workspace.path)) == [] or kind in {"presets", "pipelines"}
    workspace.write_policy("a: &a [x]\nglobal: {allow: *a}\n" + "b: [" * 5000)
    assert known("rules", Place(workspace.path)) == []


def test_completing_a_value_imports_nothing_heavy(workspace: Workspace) -> None:
    workspace.write_policy(policy_text(allow=["a.example.com"]))
    (workspace.path / "config.yaml").write_text("sandbox: {cpus: 2}\n")
    environment = workspace.environment | {
        "_CLONED_PROXY_COMPLETE": "complete_fish",
        "_TYPER_COMPLETE_ARGS": "cloned-proxy remove ",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "PYTHONPROFILEIMPORTTIME": "1",
    }
    done = subprocess.run([PROGRAM], env=environment, capture_output=True, text=True, timeout=90, check=True)
    imported = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert done.stdout == "a.example.com\n"
    assert imported & ({*HEAVY, "typer", "subprocess", "importlib.metadata"} - {"yaml", "sqlite3"}) == set()
    assert {"yaml", "sqlite3"} <= imported, "the list of imports was not read"


def test_bash_inserts_the_value(used: Workspace) -> None:
    script = used.run(env={"_CLONED_PROXY_COMPLETE": "source_bash"}).stdout
    keys = "COMP_WORDS=(cloned-proxy remove ''); COMP_CWORD=2; _cloned_proxy_completion cloned-proxy"
    done = subprocess.run(
        ["bash", "-c", f'{script}\n{keys}\nprintf "%s\\n" "${{COMPREPLY[@]}}"'],
        env=used.environment,
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )
    assert done.stdout.splitlines()[:3] == ["a.example.com", r"\*.b.example.com", "d.example.com"]


@pytest.mark.skipif(shutil.which("fish") is None, reason="no fish here")
def test_fish_offers_the_value(used: Workspace, tmp_path: Path) -> None:
    script = tmp_path / "cloned-proxy.fish"
    script.write_text(used.run(env={"_CLONED_PROXY_COMPLETE": "source_fish"}).stdout)
    asked = f"source {script}; complete --do-complete 'cloned-proxy remove '"
    environment = used.environment | {"XDG_CONFIG_HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path)}
    done = subprocess.run(
        ["fish", "-c", asked], env=environment, capture_output=True, text=True, timeout=90, check=True
    )
    assert set(done.stdout.split()) >= {"a.example.com", "*.b.example.com", "d.example.com"}


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh here")
def test_zsh_offers_the_value(used: Workspace) -> None:
    script = used.run(env={"_CLONED_PROXY_COMPLETE": "source_zsh"}).stdout
    stubs = 'compdef() { : }; _arguments() { print -r -- "$1" }'
    keys = 'words=(cloned-proxy remove ""); CURRENT=3; _cloned_proxy_completion'
    done = subprocess.run(
        ["zsh", "-fc", f"{stubs}\n{script}\n{keys}"],
        env=used.environment,
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )
    assert done.stdout.startswith('*: :(("a.example.com" "*.b.example.com" "d.example.com" "r-'), done.stdout


def test_the_table_speaks_of_the_programs_own_commands_and_options() -> None:
    assert set(ARGUMENTS) <= set(COMMANDS)
    assert set(ARGUMENTS) >= SEVERAL
    assert {*ARGUMENTS.values(), *OPTIONS.values()} <= KINDS
    options = {name: option for command in COMMANDS.values() for option in command.params for name in option.opts}
    for name in (*VALUED, *OPTIONS):
        assert not getattr(options[name], "is_flag", False), name
    for words in ARGUMENTS:
        first = next(p for p in COMMANDS[words].params if p.param_type_name == "argument")
        assert (first.nargs == -1) is (words in SEVERAL), words


@pytest.mark.parametrize(
    "words",
    [["exec", "t@v1"], ["exec", "--"], ["exec", "t@v1", "--", "cat"], ["log", "--since"], ["list"], [], ["policy"]],
)
def test_where_no_value_comes_typer_answers(words: list[str]) -> None:
    assert kind_of(words) is None
