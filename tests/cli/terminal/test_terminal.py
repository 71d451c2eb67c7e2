"""What a person sees at a terminal of 80 columns, and what a pipe gets instead."""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from contextlib import closing

import pytest

from cloned_proxy import request_egress
from cloned_proxy.cli.show.tables import Cell, ago, put_indented, show_table, until
from cloned_proxy.store.audit.audit_log import AuditLog
from cloned_proxy.telemetry.events import DecisionEvent, Kind
from tests.cli.program import TOOL, Workspace
from tests.cli.pseudo_terminal import COLOURS, at_terminal, plain

POLICY = f"""\
version: 1
mode: enforce
anonymous: global
global:
  allow: [example.com]
  deny: [tracker.example.com]
tools:
  {TOOL}:
    allow:
      - {{host: api.github.com, ports: [443], methods: [GET], paths: ["/repos/**"], expires: 2126-12-01T00:00:00Z}}
      - files.packages.example
      - a-name-of-some-length.release-assets.of-a-place-with-a-long-name.example.com
"""
HOSTS = ("tracker.example.com", "api.github.com:443", "files.packages.example",
         "a-name-of-some-length.release-assets.of-a-place-with-a-long-name.example.com")  # fmt: skip


def test_list_fits_the_terminal_in_colour_and_breaks_no_word(workspace: Workspace) -> None:
    workspace.write_policy(POLICY)
    shown = at_terminal(workspace, "list")
    lines = plain(shown).splitlines()
    assert [line for line in lines if len(line) > 80 and HOSTS[-1] not in line] == []
    assert [host for host in HOSTS if host not in plain(shown)] == []
    assert "\x1b[31mdeny tracker.example.com" in shown
    assert "\x1b[32mallow files.packages.example" in shown
    assert str(workspace.path) not in shown
    assert COLOURS.findall(at_terminal(workspace, "list", env={"NO_COLOR": "1"})) == []


def test_a_pipe_gets_every_column_whole(workspace: Workspace) -> None:
    workspace.write_policy(POLICY)
    told = workspace.run("list", env={"COLUMNS": "80"}).stdout
    assert "\x1b" not in told
    heading, *rows = told.splitlines()
    assert heading.split() == ["ID", "SCOPE", "RULE", "EXPIRES", "USES", "LEFT", "HITS", "LAST", "HIT", "ORIGIN"]
    assert len(rows) == 5
    assert all(f"{workspace.path.name}/policy.yaml:" in row for row in rows)
    assert any(f"allow {HOSTS[-1]} " in row for row in rows)


@pytest.mark.parametrize(
    "command", [("list",), ("policy", "history"), ("devices",), ("approvals", "list"), ("vault", "list"), ("log",)]
)
def test_an_empty_answer_says_so_on_stderr(workspace: Workspace, command: tuple[str, ...]) -> None:
    workspace.write_policy("version: 1\nmode: enforce\nanonymous: global\nglobal: {allow: [], deny: []}\n")
    done = workspace.run(*command)
    assert (done.returncode, done.stdout) == (0, "")
    assert len(done.stderr.splitlines()) == 1


def test_columns_without_a_word_go_and_groups_get_a_title(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    rows = [("1", "a", "-", "some words that are wrapped at spaces"), ("2", "b", "", "x" * 45)]
    show_table(rows, ("ID", "WHO", "EMPTY", "WHAT"), group_by=1)
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        "ID  WHAT",
        "a",
        "1   some words that are wrapped at",
        "    spaces",
        "b",
        f"2  {'x' * 45}",
    ]


def test_long_lines_go_on_behind_their_margin(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    put_indented("head  ", "some words, and more", margin=6)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    put_indented("head  ", "some words, and more", margin=6)
    put_indented("head  ", "", margin=6)
    assert capsys.readouterr().out.splitlines() == [
        "head  some words, and more",
        "head  some words,",
        "      and more",
        "head  ",
    ]


def test_times_are_relative_for_people_and_iso_in_a_pipe() -> None:
    now = time.time()
    assert ago(now - 7300).shown == "2h ago"
    assert until(now + 300.5).shown == "in 5m"
    assert until(now - 1).shown == "over"
    assert ago(0.0).text == "1970-01-01T00:00:00Z"
    assert (ago(None).text, ago(None, never="never").shown) == ("-", "never")
    assert Cell("\x1b[2J").shown == "\\x1b[2J"


def _denial(number: int, host: str = "example.org", **other: object) -> DecisionEvent:
    base: dict[str, object] = {
        "id": f"{number:024x}", "at": time.time() - 3600, "kind": Kind.TUNNEL, "verdict": "deny",
        "reason": "host_not_allowed", "tool": TOOL, "run": None, "host": host, "port": 443, "method": "CONNECT",
        "path": "", "rule": "", "policy": "v", "hint": f"cloned-proxy allow {host} --tool {TOOL}",
    }  # fmt: skip
    return DecisionEvent(**(base | other))  # type: ignore[arg-type]


def epochs(value: object) -> list[object]:
    """Numbers that can only be Unix seconds."""
    if isinstance(value, dict):
        return [each for found in value.values() for each in epochs(found)]
    if isinstance(value, list):
        return [each for found in value for each in epochs(found)]
    return [value] if isinstance(value, (int, float)) and 1e9 < value < 2.5e9 else []


def test_no_json_has_unix_seconds(workspace: Workspace) -> None:
    workspace.write_policy(POLICY)
    request_egress(["new.example.com"], tool_id=TOOL, lasting="30m", workspace=workspace.path)
    with AuditLog(workspace.path / "state.db") as audit:
        audit.append(_denial(1))
    assert workspace.run("allow", "other.example.com", "--for", "1h").returncode == 0
    (pending,) = workspace.json("approvals", "list")
    one = pending["id"]
    commands = ["list", "devices", "policy history", f"approvals show {one}", f"approvals reject {one}"]
    told = [workspace.json(*command.split()) for command in commands]
    told += [workspace.json("status", code=1)]
    told += [json.loads(line) for line in workspace.run("log", "--json").stdout.splitlines()]
    assert pending["created"].endswith("Z")
    assert epochs(told) == []


def test_log_at_a_terminal_names_the_fix_and_the_decision(workspace: Workspace) -> None:
    workspace.write_policy(POLICY)
    with AuditLog(workspace.path / "state.db") as audit:
        for event in (_denial(1), _denial(2, "evil\x1b]0;x\x07.example"), _denial(3), _denial(4)):
            audit.append(event)
    shown = at_terminal(workspace, "log", "--denied")
    assert plain(shown).splitlines() == [
        f"1h ago    deny    {TOOL}  CONNECT evil\\x1b]0;x\\x07.example:443",
        "          host_not_allowed",
        f"          fix: cloned-proxy allow evil\\x1b]0;x\\x07.example --tool {TOOL}",
        "          id: 000000000000000000000002",
        f"1h ago    deny    {TOOL}  CONNECT example.org:443  host_not_allowed  3x",
        f"          fix: cloned-proxy allow example.org --tool {TOOL}",
        "          id: 000000000000000000000004",
    ]
    assert "\x1b[31mdeny" in shown
    assert len(workspace.run("log", "--denied").stdout.splitlines()) == 2
    assert len(workspace.run("log", "--denied", "--json").stdout.splitlines()) == 4


def test_pair_draws_a_qr_code_at_a_terminal_alone(workspace: Workspace) -> None:
    workspace.write_policy(POLICY)
    lonely = workspace.run("pair")
    assert "nothing serves" in lonely.stderr
    serving = workspace.serve("--control", "127.0.0.1:0")
    shown = at_terminal(workspace, "pair")
    code, page = shown.splitlines()[0], f"http://127.0.0.1:{serving.control_port}"
    assert f"{page}/pair#code={code}" in shown
    drawn = [line for line in shown.splitlines() if "█" in line]
    assert len(drawn) > 12
    assert {len(line) for line in drawn} == {len(drawn[0])}
    assert "█" not in at_terminal(workspace, "pair", columns=20)
    piped = workspace.run("pair")
    assert len(piped.stdout.split()) == 1
    assert f"{page}/pair#code={piped.stdout.strip()}" in piped.stderr.splitlines(), "a link on a line of its own"
    assert "█" not in piped.stderr
    assert workspace.run("log").stdout.count(piped.stdout.strip()) == 0


def test_a_tunnel_that_was_let_through_and_then_refused_is_one_line(workspace: Workspace) -> None:
    workspace.write_policy(POLICY)
    allowed = _denial(1, verdict="allow", reason="allowed", hint="")
    with AuditLog(workspace.path / "state.db") as audit:
        for event in (
            allowed,
            _denial(2, "between.example"),
            _denial(3, reason="protocol_not_allowed", amends=allowed.id),
        ):
            audit.append(event)
    verdicts = [line.split()[1] for line in workspace.run("log").stdout.splitlines()]
    assert verdicts == ["deny", "deny"]
    with closing(sqlite3.connect(workspace.path / "state.db")) as state:
        assert state.execute("SELECT count(*) FROM entries").fetchone() == (3,)
