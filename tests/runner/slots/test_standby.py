"""The proxy that a command starts for itself when none serves: who may use it, and who ends it."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cloned_proxy.local.slot_protocol import decode, encode
from cloned_proxy.runner.slots import standby
from cloned_proxy.runner.slots.link import connect, is_served
from cloned_proxy.runner.slots.standby import proxy_for
from cloned_proxy.runner.values.errors import ProxyLinkError
from tests.cli.program import eventually

COMMAND = """
import sys
from pathlib import Path
from cloned_proxy.runner.slots.standby import proxy_for
with proxy_for(Path(sys.argv[1]), lambda _: None):
    print("up", flush=True)
    sys.stdin.read()
"""
"""As much of `exec` as concerns the proxy: it needs one until its input ends."""


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Path]:
    """Judged after each test: no proxy of this workspace runs."""
    workspace = tmp_path / ".cloned"
    workspace.mkdir(mode=0o700)
    yield workspace
    eventually(lambda: proxies(workspace) == [], what="the end of every proxy")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def proxies(workspace: Path) -> list[int]:
    """The pids of all that serves a workspace, or is about to."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            words = (directory / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"serve" in words and os.fsencode(workspace) in words:
            found.append(int(directory.name))
    return sorted(found)


def serving(workspace: Path) -> int | None:
    """The pid of the process that takes the sandboxes."""
    try:
        with connect(workspace) as sock:
            sock.send(encode(op="status", tool=""))
            return int(decode(sock.recv(100_000))["pid"])
    except (ProxyLinkError, OSError, ValueError):
        return None


def command(stack: ExitStack, workspace: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(workspace)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    stack.enter_context(process)
    stack.callback(process.kill)
    return process


def is_up(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"


def end(process: subprocess.Popen[bytes]) -> None:
    process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.mark.parametrize("killed", [True, False], ids=["killed", "ended"])
def test_five_at_once_use_one_proxy_and_the_last_ends_it(workspace: Path, stack: ExitStack, *, killed: bool) -> None:
    commands = [command(stack, workspace) for _ in range(5)]
    for process in commands:
        is_up(process)
    (proxy,) = proxies(workspace)
    assert serving(workspace) == proxy
    parent = int(Path(f"/proc/{proxy}/stat").read_text().rpartition(")")[2].split()[1])
    starter = next(process for process in commands if process.pid == parent)
    for process in [starter, *(each for each in commands if each is not starter)]:
        assert serving(workspace) == proxy
        if killed:
            process.kill()
            process.wait()
        else:
            end(process)
    if not killed:  # a command that ends in order waits for the proxy that ends with it
        assert proxies(workspace) == []
        assert not is_served(workspace)


def test_a_borrowed_proxy_that_dies_is_replaced_for_those_who_hold_it(workspace: Path, stack: ExitStack) -> None:
    commands = [command(stack, workspace) for _ in range(2)]
    for process in commands:
        is_up(process)
    first = serving(workspace)
    assert first is not None
    os.kill(first, signal.SIGKILL)
    eventually(lambda: serving(workspace) not in (None, first), what="another proxy")
    end(commands[0])  # perhaps before the other one has found the next proxy, and then there is a third
    eventually(lambda: serving(workspace) not in (None, first), what="a proxy for the one that is left")
    end(commands[1])
    assert not is_served(workspace)


def test_a_starter_that_is_killed_while_its_proxy_starts_leaves_none(workspace: Path, stack: ExitStack) -> None:
    process = command(stack, workspace)
    eventually(lambda: proxies(workspace) != [], what="a proxy on its way")
    process.kill()


def test_a_lasting_serve_takes_over_and_runs_on_when_the_borrowed_one_ends(workspace: Path, stack: ExitStack) -> None:
    before = command(stack, workspace)
    is_up(before)
    borrowed = serving(workspace)
    words = ["serve", "--listen", "127.0.0.1:0", "--control", "off", "--metrics", "off", "--workspace", str(workspace)]
    lasting = subprocess.Popen([sys.executable, "-m", "cloned_proxy", *words], stdout=subprocess.DEVNULL)
    stack.enter_context(lasting)
    stack.callback(lasting.terminate)
    eventually(lambda: serving(workspace) == lasting.pid, what="new commands go to the lasting proxy")
    assert borrowed in proxies(workspace)  # what it has open stays
    behind = command(stack, workspace)
    is_up(behind)
    end(before)
    assert borrowed not in proxies(workspace)
    end(behind)
    assert serving(workspace) == lasting.pid


def test_what_lies_in_the_current_directory_is_not_imported(
    tmp_path: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`exec` is typed in a project whose files are anybody's; what starts here runs outside of any sandbox."""
    project = tmp_path / "project"
    project.mkdir()
    for name in ("cloned_proxy", "typer", "yaml"):
        (project / f"{name}.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w').close()\n")
    monkeypatch.chdir(project)
    with proxy_for(workspace, lambda _: None):
        assert is_served(workspace)
    assert not (tmp_path / "imported").exists()
    assert not is_served(workspace)


def test_a_command_that_was_stopped_while_it_starts_the_proxy_is_waited_for_aloud_and_not_for_ever(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standby, "_QUIET_SECONDS", 0.05)
    monkeypatch.setattr(standby, "_LOCK_SECONDS", 0.2)
    place = workspace / "run"
    place.mkdir(mode=0o700)
    held = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(held, fcntl.LOCK_EX)
    said: list[str] = []
    with pytest.raises(ProxyLinkError, match="it may be stopped"), proxy_for(workspace, said.append):
        pytest.fail("somebody else starts it")
    os.close(held)
    assert said == [f"another command is starting the proxy of {workspace}; waiting for it"]
