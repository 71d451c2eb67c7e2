"""Who removes which container, and when: parallel runs, another's removal, a signal while the engine still creates."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.docker.engine_api import EngineApi, EngineApiError
from cloned_proxy.runner.docker.uninterrupted import to_its_end
from cloned_proxy.runner.runs import execution, slot_run
from cloned_proxy.runner.runs.execution import Outcome
from cloned_proxy.runner.runs.runner import DockerContainerRunner
from cloned_proxy.runner.values.errors import EngineError, ToolTimeoutError
from cloned_proxy.runner.values.spec import WORKSPACE_LABEL, SandboxSpec, workspace_mark
from tests.runner.conftest import Serving, leftovers
from tests.runner.jobs import sh

RUNS = 6


class FakeApi(EngineApi):
    """The engine as far as removals need it; each container's removal has an outcome of its own."""

    def __init__(self, **outcomes: EngineApiError) -> None:
        self.outcomes: dict[str, EngineApiError] = outcomes
        self.asked: list[str] = []
        self.waited: list[str] = []

    def ask(
        self, method: str, path: str, *, body: Any = None, timeout: float | None, **query: str | bytes | int | None
    ) -> Any:
        container = path.split("/")[2]
        if method == "POST":
            assert query["condition"] == "removed"
            self.waited.append(container)
            self.outcomes[container] = EngineApiError(404, f"No such container: {container}")
            return {"StatusCode": 137, "Error": None}
        self.asked.append(container)
        if container in self.outcomes:
            raise self.outcomes[container]
        return None


def test_a_removal_in_progress_is_waited_for() -> None:
    api = FakeApi(mine=EngineApiError(409, "removal of container mine is already in progress"))
    Engine(api).discard("mine")
    assert api.waited == ["mine"]


def test_what_is_owed_to_others_stops_nobody() -> None:
    busy = EngineApiError(500, "driver failed to remove root filesystem: device or resource busy")
    removing = EngineApiError(409, "removal of container c is already in progress")
    theirs = {f"c{number}" for number in range(8)}
    api = FakeApi(**{**dict.fromkeys(theirs, busy), "c3": removing})
    engine = Engine(api)
    engine._owed.update(theirs)
    engine.discard("mine")
    assert api.asked[0] == "mine"  # its own first
    assert sorted(api.asked[1:]) == sorted(theirs)
    assert engine._owed == theirs
    assert api.waited == []  # the next run does not wait for another's removal
    api.outcomes.clear()
    engine.close()
    assert engine._owed == set()


def test_a_removal_that_fails_is_said_and_owed() -> None:
    api = FakeApi(mine=EngineApiError(500, "device or resource busy"))
    engine = Engine(api)
    with pytest.raises(EngineError, match="device or resource busy"):
        engine.remove("mine")
    engine.discard("mine")
    assert engine._owed == {"mine"}


def test_an_interruption_is_raised_when_the_work_has_ended() -> None:
    class InterruptionError(Exception): ...

    def interrupt(_number: int, _frame: object) -> None:
        interrupted.set()
        raise InterruptionError

    interrupted = threading.Event()
    done: list[str] = []

    def work() -> None:
        os.kill(os.getpid(), signal.SIGUSR1)
        interrupted.wait(60)
        done.append("ended")

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with pytest.raises(InterruptionError):
            to_its_end(work)
        assert done == ["ended"]
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.docker
def test_parallel_runs_that_time_out_each_remove_their_own(
    module_serving: Serving, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looked at by each run as its execution ends, while others' containers are being removed."""
    left: list[str] = []
    ready = threading.Barrier(RUNS)

    def execute_and_look(own: Engine, spec: SandboxSpec, **options: Any) -> Outcome:
        ready.wait(60)
        try:
            return execution.execute(own, spec, **options)
        finally:
            if engine.find(spec.name) is not None:
                left.append(spec.name)

    monkeypatch.setattr(slot_run, "execute", execute_and_look)
    with DockerContainerRunner(workspace=module_serving.workspace, spare_slots=RUNS) as runner:

        def one(number: int) -> None:
            with pytest.raises(ToolTimeoutError):
                sh(runner, "sleep 600", tool=f"slow{number}@v1", timeout=2)

        with concurrent.futures.ThreadPoolExecutor(RUNS) as pool:
            list(pool.map(one, range(RUNS)))
        assert left == []
        assert leftovers(engine, module_serving.workspace) == []


@contextmanager
def relay(path: Path, engine: str, needle: bytes, seen: threading.Event, go_on: threading.Event) -> Iterator[None]:
    """A socket that passes everything on to the engine, and holds the first request that has `needle` in its head."""

    def pump(source: socket.socket, target: socket.socket, *, asking: bool) -> None:
        try:
            while data := source.recv(65_536):
                if asking and needle in data and not seen.is_set():
                    seen.set()
                    go_on.wait(60)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def serve() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            upstream = socket.socket(socket.AF_UNIX)
            upstream.connect(engine)
            kept.extend((client, upstream))
            threading.Thread(target=pump, args=(client, upstream), kwargs={"asking": True}, daemon=True).start()
            threading.Thread(target=pump, args=(upstream, client), kwargs={"asking": False}, daemon=True).start()

    kept: list[socket.socket] = []
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(20)
        accepting = threading.Thread(target=serve)
        accepting.start()
        try:
            yield
        finally:
            server.shutdown(socket.SHUT_RDWR)
            accepting.join()
            for sock in kept:
                sock.close()


@pytest.mark.docker
@pytest.mark.parametrize("kind", ["slot", "tool"])
def test_a_signal_while_the_engine_still_creates_leaves_no_container(
    images: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The request cannot be taken back: the engine makes the container after the command was told to end.

    Its proxy is a borrowed one, which makes no slots of its own.
    """
    workspace = tmp_path / "code" / ".cloned"
    real = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")
    words = [sys.executable, "-m", "cloned_proxy", "exec", "demo.tool@v1"]
    words += ["--workspace", str(workspace), "--", "sleep", "600"]
    seen, go_on = threading.Event(), threading.Event()
    with relay(tmp_path / "r.sock", real, b"/containers/create?name=cloned_" + kind.encode(), seen, go_on):
        monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path / 'r.sock'}")
        with subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            assert seen.wait(60)
            process.send_signal(signal.SIGTERM)
            time.sleep(0.5)  # no verdict hangs on it: a command that gives up early has the time to do so
            go_on.set()
            _, said = process.communicate(timeout=60)
            assert process.returncode == 143, said
        mark = workspace_mark(workspace)
        # The engine answers requests of one container one after the other; another create shows that it is through.
        images.remove(images.create("cloned_slot_00000000", {"Image": "cloned-worker:latest"}))
        assert [each for each, of in images.owned(WORKSPACE_LABEL) if of == mark] == []
