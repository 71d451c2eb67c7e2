"""`serve` at a terminal: each refused call once, with its fix, for as long as it serves."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess

import pytest

from cloned_proxy.cli.commands.sandbox import exec_run
from cloned_proxy.telemetry.later import LaterLogger
from tests.cli.program import PROGRAM, Workspace, eventually, policy_text
from tests.cli.pseudo_terminal import open_terminal, plain
from tests.kept_logging import logging_kept


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_terminal_shows_what_is_refused_and_nothing_stays(workspace: Workspace, workers: str) -> None:
    workspace.write_policy(policy_text())
    screen, line = open_terminal()
    serving = workspace.serve("--workers", workers, stderr=line)
    os.close(line)
    os.set_blocking(screen, False)
    shown = ""

    def seen(text: str) -> bool:
        nonlocal shown
        with contextlib.suppress(BlockingIOError):
            shown += os.read(screen, 65_536).decode()
        return text in plain(shown)

    eventually(lambda: seen("starting"), what="the first line")
    log = workspace.path / "state.db"
    eventually(lambda: watchers(log), what="the process that shows denials")
    for _ in range(2):
        serving.get("http://denied.example/")
    serving.get("http://last.example/")
    eventually(lambda: seen("last.example --tool") or seen("allow last.example"), what="the denials")
    assert plain(shown).count("GET denied.example:80/") == 1
    assert "allow denied.example" in plain(shown)
    serving.signal(signal.SIGTERM)
    serving.wait()
    os.close(screen)
    assert watchers(log) == []


def test_nothing_is_shown_and_nothing_runs_without_a_terminal(workspace: Workspace) -> None:
    workspace.write_policy(policy_text())
    serving = workspace.serve()
    serving.get("http://denied.example/")
    eventually(lambda: "denied.example" in workspace.run("log").stdout, what="the record")
    assert watchers(workspace.path / "state.db") == []
    assert "denied.example" not in serving.log()


def test_a_serve_that_is_killed_takes_its_watcher_along(workspace: Workspace) -> None:
    workspace.write_policy(policy_text())
    screen, line = open_terminal()
    serving = workspace.serve(stderr=line)
    os.close(line)
    log = workspace.path / "state.db"
    eventually(lambda: watchers(log), what="the process that shows denials")
    serving.signal(signal.SIGKILL)
    eventually(lambda: not watchers(log), what="the end of the process that shows denials")
    os.close(screen)


def watchers(log: os.PathLike[str]) -> list[str]:
    """Processes that show the denials of this log."""
    done = subprocess.run(["ps", "-ewwo", "pid=,args="], capture_output=True, text=True, check=True)
    return [each for each in done.stdout.splitlines() if "serving.watch import main" in each and str(log) in each]


def test_the_banner_names_the_next_commands(workspace: Workspace) -> None:
    workspace.write_policy(policy_text())
    banner = workspace.serve("--control", "127.0.0.1:0").banner
    told = {line.split()[0]: line.split(maxsplit=1)[1] for line in banner if line}
    assert told["log"].replace(str(PROGRAM), "cloned-proxy") == "cloned-proxy log -f"
    assert told["pair"].replace(str(PROGRAM), "cloned-proxy") == "cloned-proxy pair"


def test_messages_of_exec_have_the_form_of_those_of_serve(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def execute(*_: object) -> object:
        LaterLogger("x").warning("named networks are weaker")
        raise KeyboardInterrupt

    monkeypatch.setattr(exec_run, "_execute", execute)
    with logging_kept():
        exec_run.run_command(object())  # type: ignore[arg-type]  # never looked at
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ \[warning  \] named networks", capsys.readouterr().err)


@pytest.mark.parametrize("workers", [1, 2])
def test_serve_ends_with_its_terminal_and_not_by_kill_hup(workspace: Workspace, workers: int) -> None:
    workspace.write_policy(policy_text())
    screen, line = open_terminal()
    process = subprocess.Popen(
        [PROGRAM, "serve", "--listen", "127.0.0.1:0", "--metrics", "off", "--control", "off",
         "--workers", str(workers)],
        env=workspace.environment | {"TERM": "xterm"}, cwd=workspace.path.parent, start_new_session=True,
        stdin=line, stdout=line, stderr=line,
    )  # fmt: skip
    os.close(line)
    try:
        shown = b""
        while b"denied" not in shown:
            shown += os.read(screen, 65_536)
        workspace.write_policy(policy_text(mode="report"))
        process.send_signal(signal.SIGHUP)
        while b"policy in force" not in plain(shown.decode()).encode():
            shown += os.read(screen, 65_536)
        assert process.poll() is None
        os.close(screen)
        process.send_signal(signal.SIGHUP)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
