"""`verify`: sealed here, and able to see when it is not."""

from __future__ import annotations

import json
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cloned_proxy.runner.docker.containers import tool_container
from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.probe import run as probe
from cloned_proxy.runner.probe.plan import Attempt, Targets, plan
from cloned_proxy.runner.probe.report import ProbeReport, Result, judge_controls, judge_sealed
from cloned_proxy.runner.runs import execution
from cloned_proxy.runner.values.spec import OWNER_LABEL, SandboxSpec
from cloned_proxy.share import share_path
from cloned_proxy.store.audit.audit_log import AuditLog
from tests.cli.program import eventually

docker = pytest.mark.docker
GROUPS = {
    "direct IP", "DNS", "names", "UDP, ICMP, raw", "IPv6", "host", "host loopback", "metadata", "engine", "kernel",
    "files", "proxy abuse",
}  # fmt: skip
TARGETS = Targets(("192.0.2.9",), 1, 2, "name", 3, 4, "forged", "token")


def test_the_plan_has_every_group_and_unique_names() -> None:
    attempts = plan(TARGETS)
    assert {attempt.group for attempt in attempts} == GROUPS
    assert max(Counter(attempt.id for attempt in attempts).values()) == 1
    assert len(attempts) >= 60
    assert sum(attempt.control for attempt in attempts) >= 10


BLOCKED = Attempt("a", "g", "w", "tcp")
OPEN = Attempt("a", "g", "w", "proxy", expected="open")


@pytest.mark.parametrize(
    ("attempt", "outcome", "result"),
    [
        (BLOCKED, "blocked", Result.OK),
        (BLOCKED, "unavailable", Result.OK),
        (BLOCKED, "open", Result.LEAK),
        (BLOCKED, None, Result.LEAK),
        (BLOCKED, "nonsense", Result.LEAK),
        (OPEN, "open", Result.OK),
        (OPEN, "blocked", Result.BROKEN),
        (OPEN, None, Result.BROKEN),
    ],
)
def test_the_verdict_on_one_attempt(attempt: Attempt, outcome: str | None, result: Result) -> None:
    seen = {} if outcome is None else {"a": {"outcome": outcome, "detail": "", "seconds": 0}}
    (line,) = judge_sealed([attempt], seen)
    assert line.result is result
    assert ProbeReport((line,), (), 0).sealed is (result is Result.OK)


@pytest.mark.parametrize(
    ("outcome", "result"),
    [("open", Result.OK), ("unavailable", Result.OK), ("blocked", Result.BLIND), (None, Result.BLIND)],
)
def test_a_control_that_sees_nothing_is_blind(outcome: str | None, result: Result) -> None:
    seen = {} if outcome is None else {"a": {"outcome": outcome, "detail": "", "seconds": 0}}
    (line,) = judge_controls([BLOCKED], seen)
    assert line.result is result
    (good,) = judge_sealed([BLOCKED], {"a": {"outcome": "blocked", "detail": "", "seconds": 0}})
    assert ProbeReport((good,), (line,), 0).sealed is (result is Result.OK)


@pytest.mark.parametrize(
    ("reason", "outcome"), [("host_not_allowed", "blocked"), ("address_not_allowed", "open"), ("sni_missing", "open")]
)
def test_a_name_that_is_refused_for_its_address_has_been_resolved(
    monkeypatch: pytest.MonkeyPatch, reason: str, outcome: str
) -> None:
    monkeypatch.syspath_prepend(str(share_path("sandbox", "worker")))  # where the container has it, too
    program = runpy.run_path(str(share_path("sandbox", "worker", "probe.py")))
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setitem(program["_ask"].__globals__, "PROXY", server.getsockname())

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(f"HTTP/1.1 403 No\r\nX-Cloned-Proxy-Reason: {reason}\r\n\r\n".encode())

        answering = threading.Thread(target=answer)
        answering.start()
        seen = program["proxy"]("CONNECT denied.example:443 HTTP/1.1", [403], reason="host_not_allowed")
        answering.join()
    assert seen == (outcome, f"403 {reason}")


def test_no_attempts_is_no_proof() -> None:
    assert not ProbeReport((), (), 0).sealed


@docker
@pytest.mark.parametrize("variant", [[], ["--forwarder"]])
def test_this_machine_is_sealed_in_under_20_seconds(images: Engine, variant: list[str]) -> None:
    program = [sys.executable, "-m", "cloned_proxy", "verify", "--json", *variant]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
        report = json.loads(process.communicate(timeout=60)[0])
    bad = [line for line in (*report["attempts"], *report["controls"]) if line["result"] != "ok"]
    assert (process.returncode, bad) == (0, [])
    assert len(report["attempts"]) >= 30
    assert report["seconds"] < 20
    assert _made_by(process, images) == []


def _made_by(process: subprocess.Popen[Any], engine: Engine) -> list[str]:
    """Containers whose mark names this process; other people's may be on the engine as well."""
    return [container for container, mark in engine.owned(OWNER_LABEL) if mark.split(".")[2:3] == [str(process.pid)]]


def _unfiltered(container: dict[str, Any]) -> None:
    container["HostConfig"]["SecurityOpt"] = ["no-new-privileges:true", "seccomp=unconfined"]


def _unmasked(container: dict[str, Any]) -> None:
    host = container["HostConfig"]
    host["Tmpfs"] = {"/tmp": "rw"}
    container["User"] = "0:0"
    host["CapDrop"] = []


def _with_engine(container: dict[str, Any]) -> None:
    mounts = container["HostConfig"]["Mounts"]
    project = next(mount for mount in mounts if mount["Target"] == "/workspace")
    source = str(project["Source"]).replace("/project", "/engine")
    mounts.append({"Type": "bind", "Source": source, "Target": "/mnt/engine", "ReadOnly": True})


LEAKS = [
    ("no system-call filter", _unfiltered, {"vsock-1", "io-uring", "32-bit"}),
    ("root with capabilities, secrets unmasked", _unmasked, {"files-2", "icmp-2", "namespace-2"}),
    ("an engine socket", _with_engine, {"engine-5", "witness"}),
]


@docker
def test_the_outcome_is_on_record_where_there_is_a_workspace(images: Engine, tmp_path: Path) -> None:
    program = [sys.executable, "-m", "cloned_proxy", "verify"]
    without, within = tmp_path / "nothing" / ".cloned", tmp_path / "project" / ".cloned"
    within.mkdir(mode=0o700, parents=True)
    for place in (without, within):
        # A policy of the user's that would be in the way: the probe brings its own.
        env = os.environ | {"CLONED_WORKSPACE": str(place), "CLONED_POLICY": str(tmp_path / "none.yaml")}
        done = subprocess.run(program, capture_output=True, text=True, check=False, timeout=60, env=env)
        assert done.returncode == 0, done.stderr
    assert not without.exists(), "probing makes no workspace"
    with AuditLog(within / "state.db") as log:
        (entry,) = log.entries(types=("probe",))
        assert log.verify().holds
    assert (entry.body["sealed"], entry.body["failures"]) == (True, [])
    assert entry.body["attempts"] > entry.body["controls"] > 0
    assert entry.body["actor"].startswith("cli:")


@docker
@pytest.mark.parametrize(("spoil", "ids"), [row[1:] for row in LEAKS], ids=[row[0] for row in LEAKS])
def test_a_leaky_build_is_found_out(images: Engine, monkeypatch: pytest.MonkeyPatch, spoil: Any, ids: set[str]) -> None:
    def leaky(spec: SandboxSpec) -> dict[str, Any]:
        container = tool_container(spec)
        spoil(container)
        return container

    monkeypatch.setattr(execution, "tool_container", leaky)
    report = probe.run_probe(lambda _: None, probe.ProbeOptions(controls=False))
    assert ids <= {line.id for line in report.attempts if line.result is Result.LEAK}
    assert not report.sealed


@docker
def test_a_blind_probe_is_found_out(images: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    real = probe.unsafe_open_container

    def closed(owner: str, directory: str) -> dict[str, Any]:
        container = real(owner, directory)
        container["HostConfig"]["NetworkMode"] = "none"
        return container

    monkeypatch.setattr(probe, "unsafe_open_container", closed)
    report = probe.run_probe(lambda _: None)
    assert {"loopback-1", "host-1"} <= {line.id for line in report.controls if line.result is Result.BLIND}
    assert not report.sealed


@docker
def test_a_probe_that_is_terminated_leaves_nothing(images: Engine) -> None:
    program = [sys.executable, "-m", "cloned_proxy", "verify"]
    with tempfile.TemporaryDirectory() as place:  # not pytest's: the names of sockets below it are bounded
        with subprocess.Popen(program, stdout=subprocess.DEVNULL, env={**os.environ, "TMPDIR": place}) as process:
            eventually(lambda: _made_by(process, images), 60, "the containers of the probe")
            process.terminate()
            assert process.wait(60) == 143
        assert _made_by(process, images) == []
        eventually(lambda: not [line for line in _processes() if place in line], 60, "the end of the caretaker")


def _processes() -> list[str]:
    return subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout.splitlines()
