"""A real engine, real images, a real `serve`, and after every test: nothing left behind."""

from __future__ import annotations

import contextlib
import http.server
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cloned_proxy.local.slot_protocol import decode, encode
from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.runs.runner import DockerContainerRunner
from cloned_proxy.runner.slots.link import connect, is_served
from cloned_proxy.runner.values.errors import EngineError, GoneError
from cloned_proxy.runner.values.spec import WORKSPACE_LABEL, workspace_mark
from tests.cli import forkserver
from tests.cli.forkserver import PROGRAM, Fork
from tests.cli.program import eventually
from tests.conftest import IMAGES_FAILED
from tests.e2e.conftest import world as world  # noqa: PLC0414  a fixture of these tests, too
from tests.runner.kept_images import bring_sandbox_images

ENGINE_SCRIPT = Path(__file__).parents[1] / "engine.sh"
SERVE = [sys.executable, "-m", "cloned_proxy", "serve"]


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """The engine that answers, else one of our own beside it, ended with the tests."""
    started: Path | None = None
    try:
        found = Engine.connect()
    except EngineError as error:
        if shutil.which("dockerd") is None or os.geteuid() != 0:
            if os.environ.get("CI") == "true":
                pytest.fail(f"CI has no engine: {error}")
            pytest.skip(f"no engine: {error}")
        # Not in pytest's own directory: what an engine has mounted there would break the clean-up of later sessions.
        # And one for each process of the suite: none ends an engine that another still uses.
        place = os.environ.get("TEST_ENGINE") or tempfile.mkdtemp(prefix="cloned-engine-")
        started = Path(place) / os.environ.get("PYTEST_XDIST_WORKER", "one")
        done = subprocess.run([ENGINE_SCRIPT, "start", started], capture_output=True, text=True, check=True)
        os.environ["DOCKER_HOST"] = done.stdout.strip().partition("=")[2]
        found = Engine.connect()
    yield found
    found.close()
    if started is not None:
        subprocess.run([ENGINE_SCRIPT, "stop", started], check=True)
        shutil.rmtree(started, ignore_errors=True)


@pytest.fixture(scope="session")
def images(engine: Engine, request: pytest.FixtureRequest) -> Engine:
    try:
        bring_sandbox_images(engine, print)
    except EngineError as error:
        request.config.stash[IMAGES_FAILED] = str(error)
        raise
    return engine


@dataclass
class Serving:
    """A `serve` of its own for one workspace."""

    workspace: Path
    process: Fork

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(60)


def start_serving(workspace: Path) -> Serving:
    log = (workspace.parent.parent / f"serve-{secrets.token_hex(3)}.log").open("wb")
    words = [str(PROGRAM), "serve", "--listen", "127.0.0.1:0", "--metrics", "off", "--control", "off"]
    with log:
        process = forkserver.here().start(
            [*words, "--workspace", str(workspace)],
            env=os.environ,
            cwd=Path.cwd(),
            stdout=log.fileno(),
            stderr=log.fileno(),
        )
    deadline = time.monotonic() + 60
    try:
        while not is_served(workspace):
            assert process.poll() is None, Path(log.name).read_text(encoding="utf-8")
            assert time.monotonic() < deadline, "serve did not come up"
            time.sleep(0.05)
    except BaseException:
        process.kill()
        process.wait()
        raise
    return Serving(workspace, process)


@pytest.fixture(scope="session")
def origin() -> Iterator[int]:
    """A web server on the host's loopback; its port is what policies of these tests allow."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = f"origin {self.path}\n".encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002  the base class's word

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def module_serving(images: Engine, tmp_path_factory: pytest.TempPathFactory, origin: int) -> Iterator[Serving]:
    workspace = tmp_path_factory.mktemp("project") / "code" / ".cloned"
    workspace.mkdir(parents=True, mode=0o700)
    write_policy(workspace, origin)
    serving = start_serving(workspace)
    yield serving
    serving.stop()


def write_policy(workspace: Path, port: int) -> None:
    (workspace / "policy.yaml").write_text(
        f"version: 1\ntools:\n  demo.tool@v1:\n    allow: [{{host: 127.0.0.1, ports: [{port}], protocols: [tcp]}}]\n",
        encoding="utf-8",
    )


@pytest.fixture(scope="module")
def module_runner(module_serving: Serving) -> Iterator[DockerContainerRunner]:
    with DockerContainerRunner(workspace=module_serving.workspace) as runner:
        yield runner


def leftovers(engine: Engine, workspace: Path) -> list[str]:
    """Tools, directories of runs, and slots whose runner has no place in this workspace any more."""
    directories = list((workspace / "run").glob("*/scratch/*"))
    containers = [name for name, _ in _containers(engine, workspace)]
    # Whose they are is asked afterwards: what waits for the next `exec` is made at any time, and so is its runner.
    owners = {path.name for path in (workspace / "run").glob("*.*.*.*")}
    waiting = _waiting_runs(engine, workspace)
    names = [str(path) for path in directories if path.name not in waiting and path.exists()]
    for name, mark in _containers(engine, workspace):
        if name in containers and not (name.startswith(("cloned_slot_", "cloned_ready_")) and mark in owners):
            names.append(name)
    return names


def _containers(engine: Engine, workspace: Path) -> list[tuple[str, str]]:
    """The name of each of this workspace, and the mark of its runner."""
    found = []
    for container, mark in engine.owners():
        try:
            facts = engine.inspect(container)
        except GoneError:
            continue
        if facts["Config"]["Labels"].get(WORKSPACE_LABEL) == workspace_mark(workspace):
            found.append((str(facts["Name"]).lstrip("/"), mark))
    return found


def _waiting_runs(engine: Engine, workspace: Path) -> set[str]:
    """Of containers that wait for the next `exec`."""
    mark, names = workspace_mark(workspace), engine.labelled(WORKSPACE_LABEL)
    found = (row["Names"][0].partition("cloned_ready_")[2] for row in names if row["Labels"][WORKSPACE_LABEL] == mark)
    return {run for run in found if run}


def open_slots(workspace: Path) -> int:
    """How many runs the proxy of a workspace listens for."""
    with connect(workspace) as sock:
        sock.send(encode(op="status", tool=""))
        return int(decode(sock.recv(100_000))["slots"])


@pytest.fixture
def runner(module_runner: DockerContainerRunner, engine: Engine) -> Iterator[DockerContainerRunner]:
    """The module's runner; a test fails when its runs leave a container, a scratch directory or a listener."""
    yield module_runner
    with contextlib.suppress(AssertionError):  # what an `exec` has just begun for the next one is not all there yet
        eventually(lambda: leftovers(engine, module_runner.workspace) == [], 30)
    left = leftovers(engine, module_runner.workspace)
    for name in left:  # said once, and not by every test that comes after
        if name.startswith("/"):
            shutil.rmtree(name, ignore_errors=True)
        else:
            engine.remove(name)
    assert left == []
    assert open_slots(module_runner.workspace) == 0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test waits for the engine and its images (a minute); only tests themselves are timed."""
    for item in items:
        if item.get_closest_marker("docker") is not None:
            item.add_marker(pytest.mark.timeout(120, func_only=True))
