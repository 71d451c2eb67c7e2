"""`exec -t`: what somebody at a terminal can rely on, and the terminal as it was before after every end."""

from __future__ import annotations

import hashlib
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.values.spec import TOOL_LABEL
from tests.net.clients import needed
from tests.runner.at_terminal import PROGRAM, AtTerminal
from tests.runner.conftest import Serving, leftovers
from tests.runner.engine_relay import engine_relay
from tests.runner.jobs import TOOL

docker = pytest.mark.docker
FULL_SCREEN = r"printf '\033[?1049h\033[?25l\033[?1000;1006h''up'; exec sleep 600"
"""What an editor does first; it leaves the screen so when it is killed."""
TELLS_THE_SIZE = (
    "import os, signal; "
    "signal.signal(signal.SIGWINCH, lambda *_: os.write(1, b'now %d %d' % os.get_terminal_size())); "
    "print('ready', flush=True); exec('while True: signal.pause()')"
)
BACK = [b"\x1b[?1049l", b"\x1b[?25h", b"\x1b[?1000l", b"\x1b[?1006l"]


@pytest.fixture
def workspace(module_serving: Serving, engine: Engine) -> Iterator[Path]:
    yield module_serving.workspace
    assert leftovers(engine, module_serving.workspace) == []


def words(workspace: Path, *command: str, options: tuple[str, ...] = ()) -> list[str]:
    return ["exec", "-it", "--workspace", str(workspace), *options, TOOL, "--", *command]


@docker
def test_a_shell_has_job_control_and_follows_the_window(workspace: Path) -> None:
    host = {"COLORTERM": "truecolor", "NO_COLOR": "1", "LC_ALL": "de_DE.UTF-8"}
    with AtTerminal(words(workspace, "bash", "-i"), rows=31, columns=97, env=host) as terminal:
        terminal.see(r"\$ ")
        assert terminal.modes() != terminal.before
        terminal.type("stty size; echo $TERM:$COLORTERM:$NO_COLOR:$LANG\r")
        terminal.see(r"\r31 97\r\nxterm-256color:truecolor:1:C.UTF-8\r\n.*\$ ")
        # Ctrl-C and Ctrl-Z are for what is in the foreground, and not for the shell, nor for `exec`. A terminal throws
        # output away at these keys, a little after the signal: what the shell says at once may be lost, and is not
        # waited for.
        terminal.type(f'python3 -c "{TELLS_THE_SIZE}"\r')
        terminal.see(r"\rready\r\n")
        terminal.resize(40, 120)
        terminal.see("now 120 40")
        terminal.type("\x03")
        terminal.see(r"\^C")
        terminal.type("echo code $?; cat\r")
        terminal.see(r"code 130\r\n")
        terminal.type("once\r")
        terminal.see(r"once\r\nonce\r\n")  # cat runs
        terminal.type("\x1a")
        terminal.see(r"\^Z")
        terminal.type("jobs\r")
        terminal.see(r"Stopped +cat\r\n.*\$ ")
        terminal.type("fg\r")
        terminal.see(r"\rcat\r\n")
        terminal.type("again\r")
        terminal.see(r"again\r\nagain\r\n")
        terminal.type("\x04")
        terminal.see(r"\$ ")
        # A key that the engine would keep back for itself until the next one: the line before comes at once.
        terminal.type("\x10")
        terminal.see("fg")
        terminal.type("\x15exit 7\r")
        assert terminal.ends() == 7
        assert terminal.modes() == terminal.before


@docker
def test_vim_has_the_whole_screen_follows_it_and_leaves_it(workspace: Path) -> None:
    # The smallest build of it: the image has every library that it needs, and no vim.
    mount = f"{needed('vim.tiny')}:/mnt/editor/vim"
    with AtTerminal(words(workspace, "/mnt/editor/vim", "-N", options=("--mount", mount)), rows=30) as terminal:
        terminal.see("~.*~")
        terminal.type("ihello\x1b:set lines?\r")
        terminal.see("hello.*lines=30")
        terminal.resize(20, 60)
        terminal.see("~.*~")
        terminal.type("\x1a")  # nobody inside could continue it
        terminal.see("hello")
        terminal.type(":set lines?\r")
        terminal.see("lines=20")
        terminal.type(":q!\r")
        assert terminal.ends() == 0
        assert terminal.modes() == terminal.before
        assert terminal.shown.count(b"\x1b[?1049h") == terminal.shown.count(b"\x1b[?1049l") > 0


@docker
def test_every_byte_passes_and_a_long_paste_too(workspace: Path) -> None:
    pasted = bytes(range(256)) * 2000 + b"\x10\x11" * 100  # Ctrl-P Ctrl-Q, at which an engine lets go of a terminal
    count = f"stty raw -echo; echo re''ady; head -c {len(pasted)} | sha256sum; stty sane"
    with AtTerminal(words(workspace, "sh", "-c", count)) as terminal:
        terminal.see("ready")
        terminal.type(pasted)
        terminal.see(hashlib.sha256(pasted).hexdigest())
        assert terminal.ends() == 0


@docker
def test_a_command_that_looks_once_sees_a_terminal_of_one_column(workspace: Path) -> None:
    with AtTerminal(words(workspace, "stty", "size"), rows=2, columns=1) as terminal:
        assert terminal.ends() == 0
        assert terminal.shown == b"2 1\r\n"
        assert terminal.modes() == terminal.before


@docker
def test_what_was_started_without_a_shell_goes_on_when_it_is_stopped(workspace: Path) -> None:
    # Stopped are both, the shell that cannot control jobs and what it runs; nobody inside could continue them.
    with AtTerminal(words(workspace, "sh", "-c", "echo st''arted; cat; exit 9")) as terminal:
        terminal.see("started")
        terminal.type("once\r")
        terminal.see(r"once\r\nonce\r\n")
        terminal.type("\x1aagain\r")
        terminal.see(r"again\r\nagain\r\n")
        terminal.type("\x04")
        assert terminal.ends() == 9


@docker
def test_a_program_that_the_image_lacks_is_named_with_the_fix(workspace: Path) -> None:
    with AtTerminal(words(workspace, "claude")) as terminal:
        assert terminal.ends() == 127
        assert b"the image cloned-worker:latest has no claude: bake it in by `" in terminal.shown


def _kill_the_container(engine: Engine) -> Callable[[AtTerminal], None]:
    def kill(_: AtTerminal) -> None:
        for container, tool in engine.owned(TOOL_LABEL):
            if tool == TOOL:
                engine.kill(container)

    return kill


def _send(number: signal.Signals) -> Callable[[AtTerminal], None]:
    return lambda terminal: terminal.process.send_signal(number)


ENDS: list[tuple[str, int, tuple[str, ...], Callable[[AtTerminal], None] | None]] = [
    ("a signal to stop", 143, (), _send(signal.SIGTERM)),
    ("an interrupt from elsewhere", 130, (), _send(signal.SIGINT)),
    ("a hang-up from elsewhere", 129, (), _send(signal.SIGHUP)),
    ("time", 124, ("--timeout", "10"), lambda _: None),
    ("the container's death", 137, (), None),
]


@docker
@pytest.mark.parametrize(("code", "options", "end"), [row[1:] for row in ENDS], ids=[row[0] for row in ENDS])
def test_the_terminal_is_as_before_after_every_end(
    workspace: Path, engine: Engine, code: int, options: tuple[str, ...], end: Callable[[AtTerminal], None] | None
) -> None:
    with AtTerminal(words(workspace, "sh", "-c", FULL_SCREEN, options=options)) as terminal:
        terminal.see("up")
        assert terminal.modes() != terminal.before
        (end or _kill_the_container(engine))(terminal)
        assert terminal.ends() == code
        assert terminal.modes() == terminal.before
        assert [missing for missing in BACK if missing not in terminal.shown] == []


@docker
def test_a_window_that_is_closed_ends_it(workspace: Path) -> None:
    with AtTerminal(words(workspace, "sh", "-c", FULL_SCREEN)) as terminal:
        terminal.see("up")
        terminal.hang_up()
        assert terminal.ends() == 129


@docker
def test_the_terminal_is_as_before_when_the_engine_is_gone(workspace: Path, engine: Engine) -> None:
    # Not pytest's directory, which is too deep for the name of a socket.
    with tempfile.TemporaryDirectory() as directory, engine_relay(Path(directory)) as relay:
        command = words(workspace, "sh", "-c", FULL_SCREEN)
        with AtTerminal(command, env={"DOCKER_HOST": relay.address}) as terminal:
            terminal.see("up")
            relay.die()
            assert terminal.ends() == 1
            assert terminal.modes() == terminal.before
            assert b"the engine went away" in terminal.shown
            assert [missing for missing in BACK if missing not in terminal.shown] == []
    for container, tool in engine.owned(TOOL_LABEL):  # what the next run would find
        if tool == TOOL:
            engine.remove(container)
    for path in leftovers(engine, workspace):
        if path.startswith("/"):
            shutil.rmtree(path)
        else:
            engine.remove(path)


@docker
def test_refusals_are_told_when_the_screen_is_free_again(workspace: Path) -> None:
    script = r"printf '\033[?1049h'; curl -s http://h1.example/ >/dev/null; printf '\033[?1049l'; exit 3"
    with AtTerminal(words(workspace, "sh", "-c", script)) as terminal:
        terminal.see(r"refused h1\.example:80")
        assert terminal.ends() == 3
        screen, _, behind = terminal.shown.partition(b"\x1b[?1049l")
        assert b"refused" not in screen
        assert b"refused" in behind
        assert b"\x1b" not in behind  # it has cleaned up by itself
        assert not re.search(rb"(?<!\r)\n", terminal.shown)


def test_a_pipe_is_no_terminal(tmp_path: Path) -> None:
    command = [*PROGRAM, *words(tmp_path / ".cloned", "true")]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"-t needs a terminal" in done.stderr
    assert list(tmp_path.iterdir()) == []
