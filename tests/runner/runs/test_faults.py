"""Faults of tools, people and the engine: a clear error with the fix, and nothing left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.files.files import read_scratch
from cloned_proxy.runner.images import image_check
from cloned_proxy.runner.images.tool_program import PYTHON_IMAGE, ToolProgram
from cloned_proxy.runner.namespaces.netns import Namespace, start_time
from cloned_proxy.runner.runs.execution import Collected
from cloned_proxy.runner.runs.job import Job
from cloned_proxy.runner.runs.runner import DockerContainerRunner
from cloned_proxy.runner.slots import holder_watch, owner
from cloned_proxy.runner.values.errors import (
    EngineError,
    ImageMissingError,
    SandboxInputError,
    SlotError,
    ToolFailedError,
    ToolLimitError,
    ToolTimeoutError,
)
from cloned_proxy.runner.values.spec import WORKSPACE_LABEL, Mount, SandboxLimits, workspace_mark
from tests.runner.conftest import Serving, leftovers
from tests.runner.jobs import TOOL, run, sh

pytestmark = pytest.mark.docker


def test_a_tool_that_never_ends_is_killed(runner: DockerContainerRunner) -> None:
    began = time.monotonic()
    with pytest.raises(ToolTimeoutError, match="--timeout"):
        sh(runner, "trap '' TERM; sleep 600", timeout=1)
    assert time.monotonic() - began < 120, "and not after ten minutes"


def test_a_tool_that_closes_its_output_and_stays_is_killed(runner: DockerContainerRunner) -> None:
    with pytest.raises(ToolTimeoutError):
        sh(runner, "exec >&- 2>&-; sleep 600", timeout=1)


def test_a_gigabyte_of_output_is_cut_off(runner: DockerContainerRunner) -> None:
    job = Job(tool=TOOL, program=ToolProgram(PYTHON_IMAGE, ("sh", "-c", "head -c 1000000000 /dev/zero")))
    collected = Collected(4 * 1024 * 1024)
    with pytest.raises(ToolLimitError, match="into /sandbox"):
        runner.run(job, feed=lambda stream: stream.end_input(), output=collected)
    assert len(collected.stdout) < 8 * 1024 * 1024


def test_ten_thousand_processes_are_not_to_be_had(runner: DockerContainerRunner) -> None:
    script = (
        "import os, time\nn = 0\ntry:\n  while n < 10000:\n    n += 1\n"
        "    if os.fork() == 0: time.sleep(30); os._exit(0)\nexcept OSError: print(n)"
    )
    seen = run(runner, "python3", "-c", script)
    assert int(seen.out.split()[0]) < 256


def test_memory_is_bounded(runner: DockerContainerRunner) -> None:
    assert run(runner, "python3", "-c", "x = bytearray(700 * 1024 * 1024)").code in (1, 137)


def test_one_file_in_the_scratch_directory_is_bounded(runner: DockerContainerRunner) -> None:
    script = "head -c 400000000 /dev/zero > /sandbox/big || stat -c %s /sandbox/big"
    with contextlib.suppress(ToolLimitError):  # the guard may be quicker than the end of the write
        assert int(sh(runner, script).out) <= SandboxLimits().scratch


def test_a_full_scratch_directory_ends_the_tool(runner: DockerContainerRunner) -> None:
    script = "for i in $(seq 20); do head -c 60000000 /dev/zero > /sandbox/$i; sync; sleep 0.1; done; sleep 30"
    with pytest.raises(ToolLimitError, match="MiB"):
        sh(runner, script)


@pytest.mark.parametrize(
    ("plant", "name"),
    [
        ("ln -s /etc/shadow /sandbox/out", "out"),
        ("mkfifo /sandbox/out", "out"),
        ("mkdir /sandbox/out", "out"),
        ("ln -s / /sandbox/d", "d/etc/passwd"),
        ("true", "../../../../etc/passwd"),
        ("true", "/etc/passwd"),
        ("true", "missing"),
    ],
)
def test_results_are_regular_files_of_the_scratch_directory(
    runner: DockerContainerRunner, plant: str, name: str
) -> None:
    with pytest.raises(ToolFailedError):
        _bring(runner, plant, name)


def test_a_regular_result_is_brought_back(runner: DockerContainerRunner) -> None:
    assert _bring(runner, "mkdir /sandbox/d && echo yes > /sandbox/d/out", "d/out") == b"yes\n"


def _bring(runner: DockerContainerRunner, script: str, name: str) -> bytes:
    found: list[bytes] = []
    sh(runner, script, keep=lambda scratch, _: found.append(read_scratch(scratch, name, limit=1000)))
    return found[0]


@pytest.fixture
def project(runner: DockerContainerRunner) -> Path:
    return runner.project


def test_a_socket_in_the_project_is_out_of_reach(runner: DockerContainerRunner, project: Path) -> None:
    """Whoever listens on it is outside of the sandbox."""
    path = project / "agent.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        try:
            assert sh(runner, "test -S agent.sock && echo reached || cat agent.sock").out == ""
        finally:
            path.unlink()


def test_a_fifo_in_the_project_is_out_of_reach(runner: DockerContainerRunner, project: Path) -> None:
    path = project / "deep" / "pipe"
    path.parent.mkdir()
    os.mkfifo(path)
    try:
        assert sh(runner, "test -p deep/pipe && echo reached || cat deep/pipe").out == ""
    finally:
        path.unlink()
        path.parent.rmdir()


@pytest.mark.parametrize("source", ["/nowhere/at/all", "/dev/null", "ENGINE"])
def test_a_mount_must_be_a_file_or_a_directory_without_sockets(runner: DockerContainerRunner, source: str) -> None:
    source = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")[7:] if source == "ENGINE" else source
    with pytest.raises(SandboxInputError):
        sh(runner, "true", mounts=(Mount(source, "/mnt/x"),))


def test_an_explicit_mount_is_there_and_read_only(runner: DockerContainerRunner, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("data")
    tmp_path.chmod(0o755)
    seen = sh(runner, "cat /mnt/x/data; touch /mnt/x/y", mounts=(Mount(str(tmp_path), "/mnt/x"),))
    assert (seen.out, seen.code) == ("data", 1)


def test_a_missing_image_names_the_command_that_brings_it(runner: DockerContainerRunner) -> None:
    job = Job(tool=TOOL, program=ToolProgram("cloned-nothing:latest", ("true",)))
    with pytest.raises(ImageMissingError, match="image build"):
        runner.run(job, feed=lambda stream: None, output=lambda kind, piece: None)


def test_a_missing_program_is_an_error_that_names_it(runner: DockerContainerRunner) -> None:
    seen = run(runner, "no-such-program")
    assert (seen.code, "no-such-program" in seen.err) == (127, True)


def test_no_engine_names_the_fix(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(EngineError, match="apt-get install"):
        Engine.connect()


def test_a_dead_holder_is_replaced_before_a_tool_would_join_it(module_serving: Serving, engine: Engine) -> None:
    with DockerContainerRunner(workspace=module_serving.workspace) as runner:
        runner.warm_up(1)
        for container, mark in list(engine.owned("cloned.owner")):
            if mark == runner._site.owner:
                engine.kill(container)
        time.sleep(0.2)
        assert sh(runner, "echo alive").out == "alive\n"


def test_a_holder_that_dies_under_a_tool_leaves_it_sealed(
    module_serving: Serving, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The namespace lives as long as the tool: nothing opens until the tool, too, is ended."""
    monkeypatch.setattr(holder_watch, "_LOOK_SECONDS", 60.0)
    with DockerContainerRunner(workspace=module_serving.workspace) as runner:

        def kill_holder() -> None:
            while not list(module_serving.workspace.glob("run/*/scratch/*/up")):
                time.sleep(0.02)
            for container, mark in list(engine.owned("cloned.owner")):
                if mark == runner._site.owner and engine.inspect(container)["Name"].startswith("/cloned_slot_"):
                    engine.kill(container)

            (next(module_serving.workspace.glob("run/*/scratch/*/up")).parent / "dead").touch()

        script = (
            "touch /sandbox/up; while [ ! -e /sandbox/dead ]; do sleep 0.05; done; "
            "curl -sS --noproxy '*' https://denied.example; wc -l < /proc/net/route"
        )
        killing = threading.Thread(target=kill_holder)
        killing.start()
        seen = sh(runner, script)
        killing.join()
        assert seen.out == "1\n"
    assert leftovers(engine, module_serving.workspace) == []


def test_the_hosts_own_namespace_is_refused() -> None:
    with pytest.raises(SlotError, match="not in container"):
        Namespace.of("f" * 64, os.getpid())
    own = Namespace(os.open("/proc/self/ns/net", os.O_RDONLY), "x", os.getpid(), start_time(os.getpid()))
    try:
        with pytest.raises(SlotError, match="host's own"):
            own.listen(8081)
    finally:
        own.close()


def test_what_a_killed_runner_left_is_removed_by_the_next(module_serving: Serving, engine: Engine) -> None:
    child = os.fork()
    if child == 0:  # pragma: no cover
        runner = DockerContainerRunner(workspace=module_serving.workspace, engine=Engine.connect())
        runner.warm_up(2)
        threading.Thread(target=_die_when_up, args=(module_serving.workspace,)).start()
        sh(runner, "touch /sandbox/up; sleep 60")
        os._exit(1)
    os.waitpid(child, 0)
    mine = owner.owner_id()
    # What it made, still running: the tool, its holder, and a spare.
    assert len(_of_workspace(engine, module_serving.workspace, other_than=mine)) == 3
    with DockerContainerRunner(workspace=module_serving.workspace):
        pass
    assert _of_workspace(engine, module_serving.workspace, other_than=mine) == []
    assert [path for path in (module_serving.workspace / "run").glob("*.*.*.*") if path.name != mine] == []


def _of_workspace(engine: Engine, workspace: Path, *, other_than: str) -> list[str]:
    """The containers of a workspace that another process made."""
    ours = [container for container, mark in engine.owned(WORKSPACE_LABEL) if mark == workspace_mark(workspace)]
    return [c for c in ours if engine.inspect(c)["Config"]["Labels"]["cloned.owner"] != other_than]


def _die_when_up(workspace: Path) -> None:
    while not list(workspace.glob("run/*/scratch/*/up")):
        time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_living_are_not_taken_for_dead() -> None:
    mine = owner.owner_id()
    boot, namespace, pid, started = mine.split(".")
    assert not owner.is_dead(mine)
    assert not owner.is_dead("somebody else's mark")
    assert not owner.is_dead(f"{boot}.1.{pid}.{started}"), "another pid namespace: its pids mean nothing here"
    assert owner.is_dead(f"{boot}.{namespace}.{pid}.1"), "the pid was reused"
    assert owner.is_dead(f"other-boot.{namespace}.{pid}.{started}")


def test_a_slot_in_which_something_went_wrong_is_thrown_away(module_serving: Serving) -> None:
    with DockerContainerRunner(workspace=module_serving.workspace) as runner:
        runner.warm_up(1)
        pool = runner._pools.of("none")
        first = pool._idle[0].id
        with pytest.raises(ToolTimeoutError):
            sh(runner, "sleep 60", timeout=0.5)
        assert pool.idle == 0
        sh(runner, "true")
        assert [slot.id != first for slot in pool._idle] == [True]


def test_images_of_another_version_are_refused(module_serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_check, "source_mark", lambda: "another")
    with (
        DockerContainerRunner(workspace=module_serving.workspace) as runner,
        pytest.raises(ImageMissingError, match="another version"),
    ):
        sh(runner, "true")
