"""Starts `cloned-proxy` as a process of its own without the interpreter's start: forks of one that has loaded it once.

Loading the program costs ten times what a command does, and the suite starts it more than a thousand times. What a
fork does is what the program does from `main` on, with its own process id, descriptors, directory, environment and exit
code. A fork does not show what comes before `main`: the interpreter, the script, the imports, and /proc/PID/environ.
Tests of those, and one of each command (`test_program.py`), start the real thing: `Workspace.started`.

The server itself is `tests.cli.fork_loop`; it ends with the process that started it.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Final

ROOT: Final = Path(__file__).resolve().parents[2]
PROGRAM: Final = Path(sys.executable).with_name("cloned-proxy")
PATIENCE: Final = 90.0
"""Seconds for what takes a tenth of one: a machine may be busy with other things."""
_OF_THE_INTERPRETER: Final = ("PYTHON", "LC_", "LANG")
"""How variables begin that are read before `main`."""


class Fork:
    """A forked program, with as much of Popen as the tests use."""

    def __init__(self, connection: socket.socket, stdout: IO[str] | None) -> None:
        self._connection = connection
        self.pid = int(_line(connection))
        self.stdout = stdout
        self.returncode: int | None = None

    def close(self) -> None:
        """Forgets it; nobody will wait for it."""
        self._connection.close()

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, negative for a signal. Raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            if not select.select([self._connection], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(f"fork {self.pid}", timeout or 0)
            told = _line(self._connection)
            self._connection.close()
            if not told:
                raise RuntimeError("the fork server died, and the programs that it had forked with it")
            self.returncode = os.waitstatus_to_exitcode(int(told))
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """Forks programs with the variables of the interpreter that `env` has, where `entered` puts its command line."""

    def __init__(self, env: Mapping[str, str], entered: Callable[[list[str]], list[str]] = list) -> None:
        self._env = dict(env)
        self._address = f"\0cloned-proxy-forks-{os.getpid()}-{os.urandom(8).hex()}"
        self._forks: list[Fork] = []
        self._lifeline, theirs = socket.socketpair()
        with theirs, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
            listening.bind(self._address)
            listening.listen(64)
            words = [sys.executable, "-m", "tests.cli.fork_loop", str(listening.fileno()), str(theirs.fileno())]
            self._process = subprocess.Popen(
                entered(words),
                cwd=ROOT,
                env=self._env | {"PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[listening.fileno(), theirs.fileno()],
            )

    def can_fork(self, program: str, env: Mapping[str, str]) -> bool:
        """Whether a fork is as good as a start. In the installed wheel the start itself is what is tested."""
        ours = program == str(PROGRAM) and "TESTED_WHEEL" not in os.environ
        return ours and _read_early(env) == _read_early(self._env)

    def start(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        stderr: int,
        stdout: int | None = None,
    ) -> Fork:
        """As `subprocess.Popen`, whose `stdout` is a pipe unless it is given."""
        with open(os.devnull, "rb") as nothing:  # noqa: PTH123  a descriptor is wanted
            if stdout is not None:
                return self._fork(argv, env, cwd, (nothing.fileno(), stdout, stderr), None)
            reads, writes = os.pipe()
            try:
                return self._fork(argv, env, cwd, (nothing.fileno(), writes, stderr), os.fdopen(reads))
            finally:
                os.close(writes)

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str],
        cwd: Path,
        given: str = "",
        timeout: float = PATIENCE,
    ) -> subprocess.CompletedProcess[str]:
        """As `subprocess.run`: to its end, with what it printed. Raises subprocess.TimeoutExpired."""
        words = [str(word) for word in argv]
        with _memory("stdin") as stdin, _memory("stdout") as stdout, _memory("stderr") as stderr:
            stdin.write(given.encode())
            stdin.seek(0)
            fork = self._fork(words, env, cwd, (stdin.fileno(), stdout.fileno(), stderr.fileno()), None)
            try:
                code = fork.wait(timeout)
            except subprocess.TimeoutExpired:
                fork.kill()
                fork.wait()
                raise
            stdout.seek(0)
            stderr.seek(0)
            return subprocess.CompletedProcess(words, code, stdout.read().decode(), stderr.read().decode())

    def close(self) -> None:
        """Ends it, and with it what it has forked."""
        for fork in self._forks:
            fork.close()
        self._lifeline.close()
        self._process.wait(PATIENCE)

    def _fork(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: Path,
        three: tuple[int, int, int],
        reads: IO[str] | None,
    ) -> Fork:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(self._address)
        order = json.dumps({"argv": list(argv), "env": dict(env), "cwd": str(cwd)}).encode()
        socket.send_fds(connection, [len(order).to_bytes(4)], three)
        connection.sendall(order)
        fork = Fork(connection, reads)
        self._forks.append(fork)
        return fork


@functools.cache
def here() -> ForkServer:
    """The one for programs on this machine; with as much for the interpreter as the fixture `workspace` gives them."""
    of_it = set(_read_early(os.environ)) - {"LANG", "LC_ALL"}
    server = ForkServer({name: value for name, value in os.environ.items() if name not in of_it})
    atexit.register(server.close)
    return server


def run(
    argv: Sequence[str | Path], *, env: Mapping[str, str], cwd: Path, given: str = ""
) -> subprocess.CompletedProcess[str]:
    """To its end, by a fork where that is as good as a start."""
    if here().can_fork(str(argv[0]), env):
        return here().run(argv, env=env, cwd=cwd, given=given)
    return subprocess.run(
        argv, env=env, cwd=cwd, input=given, timeout=PATIENCE, capture_output=True, text=True, check=False
    )


def _read_early(variables: Mapping[str, str]) -> dict[str, str]:
    """Those that the interpreter reads before `main`: a fork cannot have others than the server."""
    return {name: value for name, value in variables.items() if name.startswith(_OF_THE_INTERPRETER)}


def _memory(name: str) -> IO[bytes]:
    return os.fdopen(os.memfd_create(name), "r+b", buffering=0)


def _line(connection: socket.socket) -> str:
    """Byte by byte: what comes behind it is the next line's."""
    line = b""
    while (byte := connection.recv(1)) not in (b"\n", b""):
        line += byte
    return line.decode()
