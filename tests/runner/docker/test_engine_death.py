"""An engine that is killed under a running tool, and one that comes back: named, and nothing is left behind."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.images.image_check import HOLDER_IMAGE
from cloned_proxy.runner.images.tool_program import PYTHON_IMAGE
from cloned_proxy.runner.runs.runner import DockerContainerRunner
from cloned_proxy.runner.values.errors import EngineError
from cloned_proxy.runner.values.spec import OWNER_LABEL
from cloned_proxy.store.audit.audit_log import AuditLog
from tests.runner.conftest import ENGINE_SCRIPT, open_slots, start_serving, write_policy
from tests.runner.jobs import sh

pytestmark = [
    pytest.mark.docker,
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.skipif(
        os.geteuid() != 0 or shutil.which("dockerd") is None,
        reason="an engine that may be killed takes dockerd and root",
    ),
]


class OwnEngine:
    """An engine that nobody else uses."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.host = ""

    def start(self) -> None:
        done = subprocess.run([ENGINE_SCRIPT, "start", self.directory], capture_output=True, text=True, check=True)
        self.host = done.stdout.strip().partition("=")[2]

    def has(self, *images: str) -> bool:
        """As one that began with another's: ENGINE_SEED."""
        words = ["docker", "--host", self.host, "image", "inspect", *images]
        return subprocess.run(words, capture_output=True, check=False).returncode == 0

    def kill(self) -> None:
        """The engine and what it started to run containers with, as a machine's out-of-memory killer would."""
        pid = int((self.directory / "engine.pid").read_text())
        children = [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        for each in (pid, *children):
            os.kill(each, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
            time.sleep(0.05)

    def stop(self) -> None:
        subprocess.run([ENGINE_SCRIPT, "stop", self.directory], check=True)


@pytest.fixture
def own(images: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnEngine]:
    """It has the images of the common one."""
    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    # Not pytest's directory: the sockets of containers lie far below this one, and their names are bounded.
    directory = Path(tempfile.mkdtemp(prefix="cloned-engine-"))
    made = OwnEngine(directory)
    made.start()
    try:
        if not made.has(HOLDER_IMAGE, PYTHON_IMAGE):
            with subprocess.Popen(
                ["docker", "--host", host, "save", HOLDER_IMAGE, PYTHON_IMAGE], stdout=subprocess.PIPE
            ) as saving:
                subprocess.run(["docker", "--host", made.host, "load", "--quiet"], stdin=saving.stdout, check=True)
        monkeypatch.setenv("DOCKER_HOST", made.host)
        yield made
    finally:
        made.kill()  # a gentle end takes it twenty seconds
        made.stop()
        shutil.rmtree(directory, ignore_errors=True)


def test_an_engine_killed_mid_run_is_named_and_the_next_run_cleans_up(
    own: OwnEngine, tmp_path: Path, origin: int
) -> None:
    workspace = tmp_path / "code" / ".cloned"
    workspace.mkdir(parents=True, mode=0o700)
    write_policy(workspace, origin)
    serving = start_serving(workspace)
    script = f"touch /sandbox/up; while true; do curl -s -m 2 --noproxy '*' http://127.0.0.1:{origin}/; sleep 0.1; done"
    try:
        with concurrent.futures.ThreadPoolExecutor() as pool, DockerContainerRunner(workspace=workspace) as runner:
            running = pool.submit(sh, runner, script, timeout=60)
            _wait_for(workspace)
            own.kill()
            with pytest.raises(EngineError, match=r"went away.*start it again"):
                running.result(30)
            assert list((workspace / "run").glob("*/scratch/*")) == []
            assert open_slots(serving.workspace) == 0, "the proxy still listens for a run that has ended"
            own.start()
            assert sh(runner, "echo again").out == "again\n"
        with contextlib.closing(Engine.connect()) as engine:
            assert list(engine.owned(OWNER_LABEL)) == []
        with AuditLog(workspace / "state.db") as audit:
            assert [entry.body["result"] for entry in audit.entries(types=("run",))] == ["engine", "ok"]
    finally:
        serving.stop()


def _wait_for(workspace: Path) -> None:
    deadline = time.monotonic() + 30
    while not list(workspace.glob("run/*/scratch/*/up")):
        assert time.monotonic() < deadline, "the tool did not start"
        time.sleep(0.05)
