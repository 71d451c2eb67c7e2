"""`exec`, `exec_async` and `session`: what Python code gets, and that a cancelled call leaves no container."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from cloned_proxy import DockerContainerRunner, ExecResult, Mount
from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.values.errors import SandboxInputError, ToolTimeoutError
from cloned_proxy.runner.values.spec import TOOL_LABEL
from tests.runner.calls import running
from tests.runner.conftest import Serving
from tests.runner.jobs import TOOL

pytestmark = pytest.mark.docker
FOREVER = ["sleep", "1000"]
BOUND = 60.0


async def until(reached: Callable[[], bool]) -> None:
    with anyio.fail_after(BOUND):
        while not reached():  # noqa: ASYNC110  of the engine, which sends no event
            await anyio.sleep(0.02)


def test_a_command_gives_its_result(runner: DockerContainerRunner, tmp_path: Path) -> None:
    (tmp_path / "seen").write_text("mounted\n")
    tmp_path.chmod(0o755)  # the tool is another user
    script = 'cat; cat /mnt/data/seen; echo "$WORD"; printf x >/sandbox/made; echo trouble >&2; exit 3'
    result = runner.exec(
        TOOL,
        ["sh", "-c", script],
        stdin="given\n",
        env={"WORD": "variable"},
        mounts=[Mount(str(tmp_path), "/mnt/data")],
        files=["made"],
    )
    assert isinstance(result, ExecResult)
    assert (result.exit_code, result.text, result.stderr) == (3, "given\nmounted\nvariable\n", b"trouble\n")
    assert result.files == {"made": b"x"}
    assert 0 < result.start_seconds < result.seconds
    assert not result.out_of_memory


@pytest.mark.parametrize(("word", "said"), [("nope", "has no program 'nope'"), ("/etc/passwd", "nothing executable")])
def test_a_program_that_is_not_there_is_an_error_of_the_caller(
    runner: DockerContainerRunner, word: str, said: str
) -> None:
    with pytest.raises(SandboxInputError, match=said):
        runner.exec(TOOL, [word])
    assert runner.exec(TOOL, ["sh", "-c", "exit 127"]).exit_code == 127


def test_a_path_of_ones_own_is_named_where_a_program_is_not_found_by_it(runner: DockerContainerRunner) -> None:
    """The image has a `true`: to say that it has none would send people to build another image."""
    with pytest.raises(SandboxInputError, match="no program 'true' in the PATH of `env`, which takes the place of"):
        runner.exec(TOOL, ["true"], env={"PATH": "/sandbox"})
    with pytest.raises(SandboxInputError, match=r"the image .* has no program '/sandbox/true'"):
        runner.exec(TOOL, ["/sandbox/true"], env={"PATH": "/sandbox"})
    assert runner.exec(TOOL, ["/bin/true"], env={"PATH": "/sandbox"}).exit_code == 0


def test_the_project_and_a_home_are_as_asked(runner: DockerContainerRunner) -> None:
    listed = "ls -d /workspace/* >/dev/null 2>&1; echo $?; touch ~/kept; ls ~"
    (runner.project / "a-file").touch()
    with_it, without = (runner.exec(TOOL, ["sh", "-c", listed], project=access) for access in ("ro", "none"))
    assert (with_it.text, without.text) == ("0\nkept\n", "2\nkept\n")
    for _ in range(2):
        assert runner.exec("home.tool@v1", ["sh", "-c", "ls ~; touch ~/kept"], home=True).exit_code == 0
    assert runner.exec("home.tool@v1", ["ls", "/home/tool"], home=True).text == "kept\n"


def test_a_command_is_a_list_of_words(runner: DockerContainerRunner) -> None:
    with pytest.raises(SandboxInputError, match="argv is a list of words"):
        runner.exec(TOOL, "sleep 1000")


async def test_a_command_that_takes_too_long_is_killed(runner: DockerContainerRunner, engine: Engine) -> None:
    with pytest.raises(ToolTimeoutError):
        await runner.exec_async(TOOL, FOREVER, timeout=0.5)
    assert running(engine) == []


@pytest.mark.parametrize("call", ["exec_async", "run_tool_async", "session"])
async def test_cancelling_a_task_kills_its_container(
    runner: DockerContainerRunner, engine: Engine, module_serving: Serving, call: str
) -> None:
    async def use() -> None:
        match call:
            case "exec_async":
                await runner.exec_async(TOOL, FOREVER)
            case "run_tool_async":
                tools = runner.project / "tools"
                tools.mkdir(exist_ok=True)
                (tools / f"{TOOL}.py").write_text("import time\ndef run(input, ctx):\n    time.sleep(1000)\n")
                await runner.run_tool_async(TOOL, {})
            case _:
                async with runner.session(TOOL, FOREVER):
                    await asyncio.sleep(1000)

    task = asyncio.create_task(use())
    await until(lambda: task.done() or bool(running(engine)))
    task.cancel()
    async with asyncio.timeout(BOUND):
        with pytest.raises(asyncio.CancelledError):
            await task
    assert running(engine) == []


@pytest.mark.parametrize("held", ["_create", "start"])
async def test_a_call_cancelled_before_its_container_runs_leaves_nothing(
    runner: DockerContainerRunner, engine: Engine, monkeypatch: pytest.MonkeyPatch, held: str
) -> None:
    reached, go_on = threading.Event(), threading.Event()
    started: list[str] = []
    create, start = Engine._create, Engine.start

    def hold(name: str, place: str) -> None:
        if place == held and name.lstrip("/").startswith("cloned_tool_"):
            reached.set()
            assert go_on.wait(BOUND)

    def slow_create(self: Engine, name: str, config: dict[str, Any]) -> str:
        made = create(self, name, config)
        hold(name, "_create")
        return made

    def slow_start(self: Engine, container: str) -> None:
        name = engine.inspect(container)["Name"]
        hold(name, "start")
        started.append(name)
        start(self, container)

    monkeypatch.setattr(Engine, "_create", slow_create)
    monkeypatch.setattr(Engine, "start", slow_start)
    task = asyncio.create_task(runner.exec_async(TOOL, FOREVER))
    await until(reached.is_set)
    task.cancel()
    await asyncio.sleep(0)
    hand = next(iter(runner._crew._hands))
    await until(lambda: hand.cancellation.cancelled)
    assert not task.done(), "it ends when the container is gone, not before"
    if held == "start":
        await until(lambda: not any(thread.name == "tool-kill" for thread in threading.enumerate()))
    go_on.set()
    async with asyncio.timeout(BOUND):
        with pytest.raises(asyncio.CancelledError):
            await task
    assert any("cloned_tool_" in name for name in started) == (held == "start")
    assert [tool for _, tool in engine.owned(TOOL_LABEL) if tool == TOOL] == []


ENDS = {
    # Ctrl-C cancels the task.
    "run": "asyncio.run(main())",
    # Nobody cancels it here: the loop is left as it is, and the interpreter exits.
    "loop": "asyncio.new_event_loop().run_until_complete(main())",
}


@pytest.mark.parametrize("end", ENDS)
def test_ctrl_c_leaves_no_container(module_serving: Serving, engine: Engine, end: str) -> None:
    tool = f"{end}.tool@v1"
    script = f"""
import asyncio
from cloned_proxy import DockerContainerRunner
runner = DockerContainerRunner(workspace={str(module_serving.workspace)!r}, spare_slots=0)
async def main():
    async with runner.session({tool!r}, ["sleep", "1000"]) as session:
        print("ready", flush=True)
        await session.wait()
{ENDS[end]}
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    assert len(running(engine, tool)) == 1
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=BOUND)
    assert process.returncode == -signal.SIGINT, said.decode()
    assert b"KeyboardInterrupt" in said
    assert running(engine, tool) == []
