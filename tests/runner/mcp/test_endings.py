"""`mcp run` however it ends, whatever is sent to it, and beside others: nothing stays, and nobody else notices."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from signal import SIGTERM
from typing import Any

import pytest

from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.slots.link import is_served
from cloned_proxy.runner.values.spec import TOOL_LABEL
from tests.runner.mcp.conftest import Project, make_project
from tests.runner.mcp.real_servers import RealServers

pytestmark = [pytest.mark.docker, pytest.mark.timeout(240, func_only=True)]

INITIALIZE = {
    "jsonrpc": "2.0", "id": 0, "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
}  # fmt: skip


@contextmanager
def started(project: Project, name: str, script: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """A server as its client starts it, with what the client fills in."""
    entry = project.entry(name)
    environment = {**project.environment, **entry.get("env", {})}
    if script:
        environment["CLONED_MCP_2"] = script
    process = subprocess.Popen(
        [entry["command"], *entry["args"]],
        env=environment, cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()


def send(process: subprocess.Popen[bytes], line: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(line + b"\n")
    process.stdin.flush()


def answer(process: subprocess.Popen[bytes]) -> Any:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.stderr.read() if process.stderr else b""
    return json.loads(line)


def say(process: subprocess.Popen[bytes], line: bytes) -> bytes:
    """One line to a server that repeats lines."""
    assert process.stdout is not None
    assert process.stderr is not None
    send(process, line)
    said = process.stdout.readline()
    assert said, process.stderr.read()
    return said.rstrip(b"\n")


def gone(project: Project, tool: str = "mcp.script@v1") -> None:
    """Waits until no container of the tool and no leftover of the workspace is there."""
    deadline = time.monotonic() + 60
    while running(project, tool) or project.left():
        assert time.monotonic() < deadline, (running(project, tool), project.left())
        time.sleep(0.1)


def running(project: Project, tool: str) -> list[str]:
    return [container for container, found in project.engine.owned(TOOL_LABEL) if found == tool]


def test_the_end_of_the_input_ends_the_server_with_its_own_code(project: Project) -> None:
    with started(project, "script", "cat >/dev/null; exit 7") as process:
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 7
    assert project.left() == []


@pytest.mark.parametrize("state", ["before it runs", "in a call", "while it stops"])
def test_nothing_stays_of_a_server_whose_client_kills_it(project: Project, state: str) -> None:
    with started(project, "script", "trap '' TERM; echo up; cat; sleep 600") as process:
        assert process.stdout is not None
        assert process.stdin is not None
        if state != "before it runs":
            assert process.stdout.readline() == b"up\n"
        if state == "while it stops":
            process.stdin.close()
        process.kill()
        assert process.wait(60) == -signal.SIGKILL
    gone(project)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_it_and_leaves_nothing(project: Project, number: signal.Signals) -> None:
    with started(project, "script", "trap '' TERM; echo up; sleep 600") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.send_signal(number)
        assert process.wait(60) == 128 + number
    gone(project)


def test_a_server_that_is_killed_inside_ends_the_session_with_its_code(project: Project) -> None:
    with started(project, "script", "echo up; kill -9 $$") as process:
        assert process.wait(60) == 137


def test_a_reader_that_has_gone_ends_the_server(project: Project) -> None:
    with started(project, "script", "echo up; while echo more; do :; done") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.stdout.close()
        assert process.wait(60) != 0
    gone(project)


def test_garbage_of_a_client_is_the_servers_to_refuse(project: Project) -> None:
    with started(project, "memory") as process:
        for garbage in (b"\x00\xff\xfe", b"{", b"[[[[", b"GET / HTTP/1.1", b'{"jsonrpc": "2.0", "id": 5}', b""):
            send(process, garbage)
        send(process, json.dumps(INITIALIZE).encode())
        while (said := answer(process)).get("id") != 0:
            pass
        assert said["result"]["serverInfo"]["name"]


def test_a_megabyte_on_stderr_stops_nothing_and_stays_out_of_stdout(project: Project) -> None:
    script = "head -c 1000000 /dev/zero | tr '\\0' e >&2; cat"
    with started(project, "script", script) as process, ExitStack() as stack:
        assert process.stderr is not None
        read = stack.enter_context(_reading(process.stderr.fileno()))
        assert say(process, b"ping") == b"ping"
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 0
        assert process.stdout is not None
        assert process.stdout.read() == b""
    assert b"".join(read).count(b"e" * 1000) >= 999


@contextmanager
def _reading(descriptor: int) -> Iterator[list[bytes]]:
    """Reads a pipe to its end beside everything else."""
    import threading  # noqa: PLC0415

    pieces: list[bytes] = []

    def read() -> None:
        while piece := os.read(descriptor, 65_536):
            pieces.append(piece)

    thread = threading.Thread(target=read)
    thread.start()
    yield pieces
    thread.join(60)


def test_a_client_gets_its_variables_through_and_nothing_else(project: Project) -> None:
    with started(project, "script", "env; echo; pwd") as process:
        out, _ = process.communicate(timeout=60)
    variables, directory = out.decode().split("\n\n")
    names = {line.partition("=")[0] for line in variables.splitlines()}
    assert "SCRIPT=cat" in variables.splitlines()
    assert not names & {"CLONED_MCP_2", "PYTEST_CURRENT_TEST", "DOCKER_HOST"}
    assert directory.strip() == str(project.place)


def test_five_servers_at_once_without_serve_each_keep_their_way_out(
    servers: RealServers, engine: Engine, tmp_path: Path, origin: int
) -> None:
    names = [f"s{number}" for number in range(5)]
    entries = {name: {"command": "sh", "args": ["-c", "${SCRIPT}", name]} for name in names}
    project = make_project(tmp_path / "code", engine, entries)
    allowed = [project.call("allow", f"127.0.0.1:{origin}", "--tool", f"mcp.s{number}@v1") for number in range(5)]
    assert [done.returncode for done in allowed] == [0] * 5
    url = f"http://127.0.0.1:{origin}/"
    script = f"while read line; do curl -sS -m 30 {url}$line; done"
    assert not is_served(project.workspace)
    with ExitStack() as stack:
        processes = [stack.enter_context(started(project, f"s{number}", script)) for number in range(5)]
        for number, process in enumerate(processes):
            assert say(process, f"first{number}".encode()) == f"origin /first{number}".encode()
        # Whoever started the proxy goes first: the others go on.
        while processes:
            for number, process in enumerate(processes):
                assert say(process, f"again{number}".encode()) == f"origin /again{number}".encode()
            leaving = processes.pop(0)
            assert leaving.stdin is not None
            leaving.stdin.close()
            assert leaving.wait(60) == 0
    assert project.left() == []


def test_two_workspaces_at_once_know_nothing_of_each_other(
    project: Project, servers: RealServers, engine: Engine, tmp_path: Path
) -> None:
    script = {"script": {"command": "sh", "args": ["-c", "${SCRIPT}"]}}
    other = make_project(tmp_path / "other", engine, script)
    (other.place / "mine").touch()
    with started(project, "script", "while read l; do ls; done") as one, \
         started(other, "script", "while read l; do ls; done") as two:  # fmt: skip
        assert say(two, b"x") == b"mine"
        send(one, b"x")
        one.terminate()
        assert one.wait(60) == 128 + SIGTERM
        assert say(two, b"x") == b"mine"
    gone(project)
    gone(other)
