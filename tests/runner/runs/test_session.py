"""`session`: a command that goes on running, its streams, and its end."""

from __future__ import annotations

import asyncio
import fcntl
import sys
import termios
import threading
from pathlib import Path

import anyio
import pytest

from cloned_proxy import DockerContainerRunner, SandboxError, Session
from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.values.errors import RunCancelledError, ToolLimitError
from tests.runner.calls import running
from tests.runner.conftest import Serving
from tests.runner.jobs import TOOL

pytestmark = pytest.mark.docker
FOREVER = ["sleep", "1000"]
ECHO = ["cat"]
BOUND = 60.0


async def test_a_session_is_talked_with(runner: DockerContainerRunner, engine: Engine) -> None:
    async with runner.session(TOOL, ["sh", "-c", "echo ready >&2; cat; echo bye"]) as session:
        assert isinstance(session, Session)
        for word in (b"one\n", b"two\n"):
            await session.stdin.send(word)
            assert await session.stdout.receive() == word
        assert session.exit_code is None
        await session.stdin.aclose()
        assert b"".join([piece async for piece in session.stdout]) == b"bye\n"
        assert await session.wait() == 0
        assert session.stderr == b"ready\n"
    assert session.exit_code == 0
    assert running(engine) == []


async def test_leaving_a_session_asks_it_to_end_and_then_kills(runner: DockerContainerRunner, engine: Engine) -> None:
    # It floods its stdout when its input ends; nobody reads that any more, and it must end all the same.
    async with runner.session(TOOL, ["sh", "-c", "cat; head -c 3000000 /dev/zero; exit 7"], grace=BOUND) as willing:
        pass
    assert willing.exit_code == 7
    async with runner.session(TOOL, ["sh", "-c", "exec sleep 1000 </dev/null"], grace=0.1) as deaf:
        pass
    assert deaf.exit_code is None
    with pytest.raises(RunCancelledError):
        await deaf.wait()
    assert running(engine) == []


async def test_an_error_in_the_block_kills_and_says_how_the_command_ended(
    runner: DockerContainerRunner, engine: Engine
) -> None:
    with pytest.raises(KeyError) as mine:
        async with runner.session(TOOL, FOREVER):
            raise KeyError("mine")
    assert not hasattr(mine.value, "__notes__")
    assert running(engine) == []


async def test_who_finds_the_streams_closed_learns_why(runner: DockerContainerRunner) -> None:
    async def use() -> None:
        async with runner.session(TOOL, ["sh", "-c", "echo no such file >&2; exit 4"]) as session:
            await session.wait()
            await session.stdout.receive()

    with pytest.raises(anyio.EndOfStream) as closed:
        await use()
    assert closed.value.__notes__ == ["the command ended with exit code 4; the last line on its stderr: no such file"]


async def test_a_cancel_scope_and_a_deadline_end_a_session(runner: DockerContainerRunner, engine: Engine) -> None:
    with anyio.CancelScope() as scope:
        async with runner.session(TOOL, FOREVER) as session:
            scope.cancel()
            await session.stdout.receive()
    assert scope.cancelled_caught
    assert running(engine) == []


async def test_a_container_that_is_killed_ends_the_session(runner: DockerContainerRunner, engine: Engine) -> None:
    async with runner.session(TOOL, ECHO) as session:
        engine.kill(running(engine)[0])
        with pytest.raises(anyio.EndOfStream):
            await session.stdout.receive()
        assert await session.wait() == 137
        with pytest.raises(anyio.BrokenResourceError):
            await session.stdin.send(b"anybody there?")


async def test_what_ends_a_command_by_force_is_raised(runner: DockerContainerRunner) -> None:
    async def fill() -> None:
        script = "for n in 1 2; do head -c 200m /dev/zero >/sandbox/$n; done; sleep 1000"
        async with runner.session(TOOL, ["sh", "-c", script]) as session:
            with pytest.raises(anyio.EndOfStream):
                await session.stdout.receive()

    async def start() -> None:
        async with runner.session(TOOL, ECHO, image="cloned-nothing:latest"):
            pytest.fail("it cannot have started")

    with pytest.raises(ToolLimitError, match="in /sandbox"):
        await fill()
    with pytest.raises(SandboxError, match="not on this machine"):
        await start()


async def test_output_without_a_reader_waits_outside_of_memory(runner: DockerContainerRunner) -> None:
    size = 96 * 1024 * 1024
    before = _new_peak()
    async with runner.session(TOOL, ["head", "-c", str(size), "/dev/zero"]) as session:
        assert await _stalled(session) < 1024 * 1024
        assert sum([len(piece) async for piece in session.stdout]) == size
    assert _peak() - before < size // 2


async def test_a_command_that_waits_for_its_reader_can_be_killed(runner: DockerContainerRunner) -> None:
    async with asyncio.timeout(BOUND):
        async with runner.session(TOOL, ["head", "-c", "50m", "/dev/zero"]) as session:
            await _stalled(session)
            session.kill()
            with pytest.raises(RunCancelledError):
                await session.wait()


async def _stalled(session: Session) -> int:
    """How many bytes wait for their reader, as soon as they have become no more for a while."""
    held = 0
    while held == 0 or held != _unread(session):
        held = _unread(session)
        await asyncio.sleep(0.3)
    return held


def _new_peak() -> int:
    Path("/proc/self/clear_refs").write_text("5")  # proc(5)
    return _peak()


def _peak() -> int:
    """The most memory that this process held, in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def _unread(session: Session) -> int:
    answer = fcntl.ioctl(session.stdout._sock, termios.FIONREAD, b"\0" * 4)
    return int.from_bytes(answer, sys.byteorder)


def test_sessions_of_many_threads_and_loops(runner: DockerContainerRunner) -> None:
    heard: dict[int, bytes] = {}

    async def talk(number: int) -> None:
        async with runner.session(TOOL, ECHO, grace=BOUND) as session:
            await session.stdin.send(b"%d\n" % number)
            heard[number] = await session.stdout.receive()

    async def several(first: int) -> None:
        await asyncio.gather(*(talk(first + n) for n in range(3)))

    threads = [threading.Thread(target=lambda first=first: asyncio.run(several(first))) for first in (0, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert heard == {n: b"%d\n" % n for n in (0, 1, 2, 10, 11, 12)}


async def test_a_runner_that_closes_ends_its_sessions(module_serving: Serving, engine: Engine) -> None:
    runner = DockerContainerRunner(workspace=module_serving.workspace, spare_slots=0)
    async with runner.session(TOOL, FOREVER) as session:
        await asyncio.to_thread(runner.close)
        with pytest.raises(RunCancelledError, match="runner was closed"):
            await session.wait()
    assert running(engine) == []
