"""However a command ends, its container, slot and helper proxy go, and nobody has to type another command for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.values.spec import WORKSPACE_LABEL, workspace_mark
from tests.cli.program import Origin, eventually
from tests.runner.conftest import Serving, leftovers, open_slots, write_policy
from tests.runner.jobs import TOOL
from tests.runner.runs.test_endings import relay
from tests.runner.slots.test_standby import proxies, serving

pytestmark = pytest.mark.docker

EXEC = [sys.executable, "-m", "cloned_proxy", "exec", TOOL, "--workspace"]
LOOP = "while curl -s -m 2 {url} >/dev/null; do echo up; sleep 0.1; done; sleep 600"


@pytest.fixture
def place(module_serving: Serving, engine: Engine) -> Iterator[Path]:
    yield module_serving.workspace
    for name in leftovers(engine, module_serving.workspace):  # a failed test takes no other with it
        if not name.startswith("/"):
            engine.remove(name)


def start(stack: ExitStack, workspace: Path, *command: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [*EXEC, str(workspace), "--", *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    stack.enter_context(process)
    stack.callback(process.kill)
    return process


def is_up(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"


def nothing_left(engine: Engine, workspace: Path) -> bool:
    return leftovers(engine, workspace) == []


# Of signals that are there together Python takes the one with the lowest number first, whichever came first.
ENDS: dict[str, tuple[list[signal.Signals], set[int]]] = {
    "killed": ([signal.SIGKILL], {-9}),
    "terminal closed": ([signal.SIGHUP], {129}),
    "an impatient client": ([signal.SIGINT, signal.SIGTERM], {130}),
    "told twice": ([signal.SIGTERM, signal.SIGTERM, signal.SIGHUP], {143, 129}),
}


@pytest.mark.parametrize("how", ENDS)
def test_no_end_of_a_command_leaves_anything(place: Path, engine: Engine, how: str) -> None:
    signals, codes = ENDS[how]
    with ExitStack() as stack:
        process = start(stack, place, "sh", "-c", "echo up; sleep 600")
        is_up(process)
        for number in signals:
            process.send_signal(number)
            if number is not signals[-1]:
                ending(process)
        assert process.wait(60) in codes
        eventually(lambda: nothing_left(engine, place), 60, "the end of its container and slot")
        assert open_slots(place) == 0


def ending(process: subprocess.Popen[bytes]) -> None:
    """Waits until a signal was taken: one that comes before is merged with it by the kernel."""
    status = Path(f"/proc/{process.pid}/status")

    def taken() -> bool:
        lines = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
        return int(lines["SigPnd"], 16) == int(lines["ShdPnd"], 16) == 0

    eventually(taken, what="the signal's delivery")


@pytest.mark.parametrize("both", [False, True], ids=["exec", "exec and its proxy"])
def test_a_killed_command_takes_the_way_out_with_it(images: Engine, tmp_path: Path, *, both: bool) -> None:
    """The attack: the tool goes on asking a canary on the host, which counts what comes."""
    workspace = tmp_path / "code" / ".cloned"
    workspace.mkdir(parents=True, mode=0o700)
    with ExitStack() as stack:
        canary = Origin()
        stack.callback(canary.close)
        write_policy(workspace, canary.port)
        process = start(stack, workspace, "sh", "-c", LOOP.format(url=f"http://127.0.0.1:{canary.port}/"))
        is_up(process)
        assert canary.seen
        proxy = serving(workspace)
        assert proxy is not None
        process.kill()
        if both:
            os.kill(proxy, signal.SIGKILL)
        eventually(lambda: nothing_left(images, workspace), 60, "the end of its container and slot")
        eventually(lambda: proxies(workspace) == [], 60, "the end of the helper proxy")
        reached = len(canary.seen)
        ask_until = time.monotonic() + 1.0  # the loop asked ten times a second
        eventually(lambda: time.monotonic() > ask_until)
        assert len(canary.seen) == reached


def test_a_container_that_the_engine_makes_after_the_kill_goes_too(
    place: Path, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")
    seen, go_on = threading.Event(), threading.Event()
    name = b"/containers/create?name=cloned_tool_"
    with relay(tmp_path / "r.sock", real, name, seen, go_on), ExitStack() as stack:
        monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path / 'r.sock'}")
        process = start(stack, place, "sleep", "600")
        assert seen.wait(60)
        process.kill()
        slot = leftovers(engine, place)
        eventually(lambda: leftovers(engine, place) != slot, 60, "the first round of the caretaker")
        go_on.set()
        process.wait(60)
        eventually(lambda: nothing_left(engine, place), 60, "the end of what came late")


def test_a_command_whose_holder_is_killed_says_so_and_ends(place: Path, engine: Engine) -> None:
    with ExitStack() as stack:
        process = start(stack, place, "sh", "-c", "echo up; sleep 600")
        is_up(process)
        (tool,) = (name for name in engine.names() if name.startswith("cloned_tool_") and _mine(engine, name, place))
        engine.kill(str(engine.inspect(tool)["HostConfig"]["NetworkMode"]).removeprefix("container:"))
        said = process.communicate(timeout=60)[1].decode()
        assert process.returncode == 1
        assert "the holder of the slot" in said
        assert nothing_left(engine, place)


def _mine(engine: Engine, name: str, workspace: Path) -> bool:
    return bool(engine.inspect(name)["Config"]["Labels"].get(WORKSPACE_LABEL) == workspace_mark(workspace))
