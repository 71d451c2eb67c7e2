"""A warm `exec`: another process runs it, in a container that waited for it, and nobody can tell the difference."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloned_proxy.cli.terminal.warm_wire import SOCKET
from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.slots.link import is_served
from cloned_proxy.store.audit.audit_log import AuditLog
from tests.cli.program import eventually
from tests.runner.conftest import leftovers, write_policy
from tests.runner.jobs import TOOL
from tests.runner.warm import TYPED, inspected, served_workspace, server, start, waiting, warm_up, words

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def place(images: Engine, tmp_path_factory: pytest.TempPathFactory, origin: int) -> Iterator[Path]:
    with served_workspace(images, tmp_path_factory.mktemp("warm"), origin) as workspace:
        yield workspace
    assert not workspace.joinpath(*SOCKET).exists()


@pytest.fixture
def workspace(place: Path, images: Engine) -> Iterator[Path]:
    yield place
    eventually(lambda: leftovers(images, place) == [], 60, f"the end of {leftovers(images, place)}")


def plain(found: dict[str, Any], name: str) -> str:
    """Everything that does not differ from run to run, and not the command."""
    config = {key: value for key, value in found["Config"].items() if key not in ("Cmd", "Labels")}
    labels = sorted(found["Config"]["Labels"])
    # The engine lists the mounts in no fixed order.
    mounts = sorted(found["Mounts"], key=lambda mount: mount["Destination"])
    text = json.dumps([config, labels, found["HostConfig"], mounts, found["AppArmorProfile"]], sort_keys=True)
    scratch = next(mount["Source"] for mount in found["Mounts"] if mount["Destination"] == "/sandbox")
    holder = found["HostConfig"]["NetworkMode"]
    return text.replace(scratch, "SCRATCH").replace(name, "NAME").replace(holder, "HOLDER")


SAY_NAME = 'echo "$CLONED_CONTAINER_NAME"; env | grep -v ^CLONED_CONTAINER_NAME | sort; ls -A /sandbox /tmp ~; read x'


def test_it_runs_in_the_container_that_waited_and_that_is_as_any_other(workspace: Path, images: Engine) -> None:
    ready = warm_up(images, workspace, TOOL)
    secret = {**os.environ, "A_SECRET": "of the caller"}
    with start(workspace, "sh", "-c", SAY_NAME, env=secret) as warm:
        found = inspected(images, warm)
        assert (found["Id"], found["Name"].startswith("/cloned_tool_")) == (ready, True)
        said, _ = warm.communicate(b"\n", 60)
    with start(workspace, "sh", "-c", SAY_NAME, env={**secret, **TYPED}) as typed:
        other = inspected(images, typed)
        assert other["Id"] != ready
        expected, _ = typed.communicate(b"\n", 60)
    assert said == expected
    assert b"of the caller" not in said
    assert plain(found, found["Name"][1:]) == plain(other, other["Name"][1:])


def test_two_at_once_have_a_container_each(workspace: Path, images: Engine) -> None:
    warm_up(images, workspace, TOOL)
    both = [start(workspace, "sh", "-c", 'echo "$CLONED_CONTAINER_NAME"; cat') for _ in range(2)]
    names = {inspected(images, process)["Id"] for process in both}
    assert len(names) == 2
    for number, process in enumerate(both):
        with process:
            assert process.communicate(b"%d" % number, 60) == (b"%d" % number, b"")


def test_large_streams_and_the_exit_code_pass(workspace: Path, images: Engine) -> None:
    warm_up(images, workspace, TOOL)
    data = os.urandom(1 << 20) * 8
    with start(workspace, "sh", "-c", "cat; echo end >&2; exit 41") as process:
        assert process.communicate(data, 60) == (data, b"end\n")
    assert process.returncode == 41


def test_a_variable_has_the_value_of_whoever_types_now(workspace: Path, images: Engine) -> None:
    options = ("--env", "WORD", TOOL)
    before = {**os.environ, "WORD": "first"}
    subprocess.run([*words(workspace, *options), "--", "true"], check=True, timeout=60, env=before)
    os.environ["WORD"] = "first"
    try:
        warm_up(images, workspace, *options)
    finally:
        del os.environ["WORD"]
    command = [*words(workspace, *options), "--", "sh", "-c", "echo $WORD"]
    done = subprocess.run(command, capture_output=True, check=True, timeout=60, env={**os.environ, "WORD": "second"})
    assert done.stdout == b"second\n"


def test_a_container_of_other_settings_is_not_used(workspace: Path, images: Engine) -> None:
    ready = warm_up(images, workspace, TOOL)
    config = workspace / "config.yaml"
    config.write_text("sandbox: {pids: 99}\n", encoding="utf-8")
    try:
        with start(workspace, "sh", "-c", 'echo "$CLONED_CONTAINER_NAME"; cat') as process:
            found = inspected(images, process)
            process.communicate(b"", 60)
    finally:
        config.unlink()
    assert (found["Id"] == ready, found["HostConfig"]["PidsLimit"]) == (False, 99)


def test_a_mask_that_lies_over_another_directory_is_not_trusted(workspace: Path, images: Engine) -> None:
    """The mount moves with the directory that is renamed: what takes its place would be bare."""
    nested = workspace.parent / "vendor" / ".cloned"
    nested.mkdir(parents=True, exist_ok=True)
    ready = warm_up(images, workspace, TOOL)
    nested.rename(nested.with_name("aside"))
    nested.mkdir()
    (nested / "vault.key").write_text("canary", encoding="utf-8")
    script = 'echo "$CLONED_CONTAINER_NAME"; cat /workspace/vendor/.cloned/vault.key; cat'
    with start(workspace, "sh", "-c", script) as process:
        found = inspected(images, process)
        said, _ = process.communicate(b"", 60)
    assert (found["Id"] == ready, b"canary" in said) == (False, False)


def test_a_killed_client_ends_its_tool(workspace: Path, images: Engine) -> None:
    ready = warm_up(images, workspace, TOOL)
    with start(workspace, "sh", "-c", 'echo "$CLONED_CONTAINER_NAME"; trap "" TERM; sleep 600') as process:
        assert inspected(images, process)["Id"] == ready
        process.kill()
        eventually(lambda: images.find(ready) is None, 60, "the end of the tool")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_it_as_it_ends_any(workspace: Path, images: Engine, number: signal.Signals, code: int) -> None:
    ready = warm_up(images, workspace, TOOL)
    with start(workspace, "sh", "-c", 'echo "$CLONED_CONTAINER_NAME"; sleep 600') as process:
        assert inspected(images, process)["Id"] == ready
        process.send_signal(number)
        assert process.wait(60) == code
        assert process.stderr is not None
        assert process.stderr.read() == b""
    eventually(lambda: images.find(ready) is None, 60, "the end of the tool")


def test_it_stops_and_goes_on_with_whoever_typed_it(workspace: Path, images: Engine) -> None:
    ready = warm_up(images, workspace, TOOL)
    # A group of its own: the kernel stops none whose parents are all outside of their session, as under setsid(1).
    with start(workspace, "sh", "-c", 'echo "$CLONED_CONTAINER_NAME"; cat', process_group=0) as process:
        found = inspected(images, process)
        assert found["Id"] == ready
        runner = int(found["Config"]["Labels"]["cloned.owner"].split(".")[2])
        process.send_signal(signal.SIGTSTP)
        eventually(lambda: state_of(process.pid) == state_of(runner) == "T", 60, "both stopped")
        process.send_signal(signal.SIGCONT)
        assert process.communicate(b"on", 60) == (b"on", b"")


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]


def test_a_killed_runner_is_told_and_its_container_goes(workspace: Path, images: Engine) -> None:
    ready = warm_up(images, workspace, TOOL)
    with start(workspace, "sh", "-c", 'echo "$CLONED_CONTAINER_NAME"; sleep 600') as process:
        found = inspected(images, process)
        os.kill(int(found["Config"]["Labels"]["cloned.owner"].split(".")[2]), signal.SIGKILL)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said.count(b"ended from outside")) == (1, 1)
    eventually(lambda: images.find(ready) is None, 60, "the end of the tool")


def test_without_the_server_what_runs_goes_on_and_the_next_one_runs_as_well(workspace: Path, images: Engine) -> None:
    ready = warm_up(images, workspace, TOOL)
    with start(workspace, "sh", "-c", 'echo "$CLONED_CONTAINER_NAME"; cat') as process:
        assert inspected(images, process)["Id"] == ready
        os.kill(server(workspace), signal.SIGKILL)
        assert process.communicate(b"on", 60) == (b"on", b"")
    with start(workspace, "cat") as process:
        assert process.communicate(b"next", 60) == (b"next", b"")


def test_a_stopped_server_keeps_nobody_waiting_and_runs_nothing_twice(workspace: Path, images: Engine) -> None:
    warm_up(images, workspace, TOOL)
    stopped = server(workspace)
    os.kill(stopped, signal.SIGSTOP)
    try:
        seen = subprocess.run(
            [*words(workspace, TOOL), "--", "echo", "once"], capture_output=True, check=True, timeout=60
        )
    finally:
        os.kill(stopped, signal.SIGCONT)
    assert seen.stdout == b"once\n"
    warm_up(images, workspace, TOOL)
    with AuditLog(workspace / "state.db") as log:
        assert [entry.body["command"] for entry in log.entries(types=("run",))].count("echo once") == 1


def test_what_nobody_wants_for_long_goes(images: Engine, tmp_path: Path, origin: int) -> None:
    """By a `serve` of its own, whose warm process has less patience."""
    workspace = tmp_path / "code" / ".cloned"
    workspace.mkdir(parents=True, mode=0o700)
    write_policy(workspace, origin)
    impatient = "import cloned_proxy.cli.warm.server as s; s._IDLE_SECONDS = 4.0; s.main()"
    program = (
        "import cloned_proxy.cli.commands.serving.warm_starter as s; from cloned_proxy.__main__ import main\n"
        f"s._PROGRAM = ('-c', {impatient!r}); main()"
    )
    options = ["--listen", "127.0.0.1:0", "--metrics", "off", "--control", "off", "--workspace", str(workspace)]
    with subprocess.Popen([sys.executable, "-c", program, "serve", *options], stdout=subprocess.DEVNULL) as serving:
        try:
            eventually(lambda: is_served(workspace), 60, "serve")

            def waits() -> bool:
                with start(workspace, "true") as process:
                    process.communicate(timeout=60)
                return bool(waiting(images, workspace))

            eventually(waits, 60, "a container that waits")
            eventually(lambda: not waiting(images, workspace), 60, "its end")
            eventually(lambda: not workspace.joinpath(*SOCKET).exists(), 60, "the end of the warm process")
            assert leftovers(images, workspace) == []
        finally:
            serving.terminate()


def test_what_is_wrong_is_told_in_the_same_words(workspace: Path, images: Engine) -> None:
    warm_up(images, workspace, TOOL)
    for line in ((TOOL, "--", "nope"), ("--image", "none:such", TOOL, "--", "true"), ("a b", "--", "true")):
        warm, typed = (
            subprocess.run(
                words(workspace, *line), capture_output=True, check=False, timeout=60, env={**os.environ, **env}
            )
            for env in ({}, TYPED)
        )
        told, expected = (re.sub(rb"tini \(\d+\)", b"tini (N)", done.stderr) for done in (warm, typed))
        assert (warm.returncode, warm.stdout, told) == (typed.returncode, typed.stdout, expected)


@pytest.mark.skipif(os.geteuid() != 0, reason="takes another user's id")
def test_another_user_is_not_served(workspace: Path, images: Engine) -> None:
    """The directory keeps them out; here it is open, and the kernel's word on who connects has to do."""
    warm_up(images, workspace, TOOL)
    path = workspace.joinpath(*SOCKET)
    script = (
        "import os, socket, sys\n"
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
        "here = os.open(os.path.dirname(sys.argv[1]), os.O_PATH)\n"
        "os.setuid(int(sys.argv[2]))\n"
        "s.connect(f'/proc/self/fd/{here}/exec.sock')\n"
        "try: s.send(b'anything'); print(len(s.recv(100)))\n"
        "except ConnectionError: print(0)\n"
    )
    path.chmod(0o666)
    path.parent.chmod(0o711)
    try:
        answers = [
            subprocess.run(
                [sys.executable, "-c", script, path, user], capture_output=True, check=True, timeout=60
            ).stdout
            for user in ("65534", "0")
        ]
    finally:
        path.parent.chmod(0o700)
        path.chmod(0o600)
    assert [answer == b"0\n" for answer in answers] == [True, False]


@pytest.mark.skipif(os.geteuid() != 0, reason="takes another group")
def test_who_is_in_other_groups_is_somebody_else() -> None:
    """The server takes what has its own mark: without the engine's group nobody gets at the engine through it."""
    program = [sys.executable, "-c", "from cloned_proxy.cli.terminal.warm_wire import here; print(here())"]
    marks = {
        subprocess.run(program, capture_output=True, check=True, timeout=60, extra_groups=groups).stdout
        for groups in ((), (65_534,))
    }
    assert len(marks) == 2
