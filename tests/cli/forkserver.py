"""Starts `cloned-proxy` as a process of its own without the interpreter's start: forks of one that has loaded it once.

Loading the program costs ten times what a command does, and the suite starts it more than a thousand times. What a
fork does is what the program does from `main` on, with its own process id, descriptors, directory, environment and exit
code. A fork does not show what comes before `main`: the interpreter, the script, the imports, and /proc/PID/environ.
Tests of those, and one of each command (`test_program.py`), start the real thing: `Workspace.started`.

`python -m tests.cli.forkserver DESCRIPTOR` is the server, which ends with the process that holds the other end.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import io
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Final

ROOT: Final = Path(__file__).resolve().parents[2]
PROGRAM: Final = Path(sys.executable).with_name("cloned-proxy")
PATIENCE: Final = 90.0
"""Seconds for what takes a tenth of one: a machine may be busy with other things."""
_LOADED: Final = ("cloned_proxy.cli", "cloned_proxy.policy", "cloned_proxy.store", "cloned_proxy.proxy")
"""Packages that the server loads whole. What it does not load, a fork loads by itself, as a fresh process would."""
_OF_THE_INTERPRETER: Final = ("PYTHON", "LC_", "LANG")
"""How variables begin that are read before `main`: a fork cannot have others than the server."""
_LONGEST_ORDER: Final = 200_000


class Fork:
    """A forked program, with as much of Popen as the tests use."""

    def __init__(self, connection: socket.socket, stdout: IO[str] | None) -> None:
        self._connection = connection
        self.pid = int(_line(connection))
        self.stdout = stdout
        self.returncode: int | None = None

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


def can_fork(program: str, env: Mapping[str, str]) -> bool:
    """Whether a fork is as good as a start. In the installed wheel the start itself is what is tested."""

    def early(variables: Mapping[str, str]) -> dict[str, str]:
        return {name: value for name, value in variables.items() if name.startswith(_OF_THE_INTERPRETER)}

    ours = program == str(PROGRAM) and "TESTED_WHEEL" not in os.environ
    return ours and early(env) == early(_environment_of_server())


def start(argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, stderr: int) -> Fork:
    """As `subprocess.Popen` with a pipe for its output."""
    reads, writes = os.pipe()
    try:
        with open(os.devnull, "rb") as stdin:  # noqa: PTH123  a descriptor is wanted
            return _fork(argv, env, cwd, (stdin.fileno(), writes, stderr), os.fdopen(reads))
    finally:
        os.close(writes)


def run(
    argv: Sequence[str | Path], *, env: Mapping[str, str], cwd: Path, given: str = "", timeout: float = PATIENCE
) -> subprocess.CompletedProcess[str]:
    """As `subprocess.run`: to its end, with what it printed. Raises TimeoutExpired."""
    words = [str(word) for word in argv]
    if not can_fork(words[0], env):
        return subprocess.run(
            words, env=env, cwd=cwd, input=given, timeout=timeout, capture_output=True, text=True, check=False
        )
    with _memory("stdin") as stdin, _memory("stdout") as stdout, _memory("stderr") as stderr:
        stdin.write(given.encode())
        stdin.seek(0)
        fork = _fork(words, env, cwd, (stdin.fileno(), stdout.fileno(), stderr.fileno()), None)
        try:
            code = fork.wait(timeout)
        except subprocess.TimeoutExpired:
            fork.kill()
            fork.wait()
            raise
        stdout.seek(0)
        stderr.seek(0)
        return subprocess.CompletedProcess(words, code, stdout.read().decode(), stderr.read().decode())


def _fork(
    argv: Sequence[str], env: Mapping[str, str], cwd: Path, three: tuple[int, int, int], reads: IO[str] | None
) -> Fork:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(_server())
    order = json.dumps({"argv": list(argv), "env": dict(env), "cwd": str(cwd)}).encode()
    socket.send_fds(connection, [len(order).to_bytes(4)], three)
    connection.sendall(order)
    return Fork(connection, reads)


def _memory(name: str) -> IO[bytes]:
    return os.fdopen(os.memfd_create(name), "r+b", buffering=0)


def _line(connection: socket.socket) -> str:
    """Byte by byte: what comes behind it is the next line's."""
    line = b""
    while (byte := connection.recv(1)) not in (b"\n", b""):
        line += byte
    return line.decode()


@functools.cache
def _environment_of_server() -> dict[str, str]:
    """With as much of the interpreter's variables as the fixture `workspace` gives to a program."""
    of_it = {name for name in os.environ if name.startswith(_OF_THE_INTERPRETER)} - {"LANG", "LC_ALL"}
    return {name: value for name, value in os.environ.items() if name not in of_it}


@functools.cache
def _server() -> str:
    """The address of the server, which is started when it is first needed and ends with this process."""
    address = f"\0cloned-proxy-forks-{os.getpid()}-{os.urandom(8).hex()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(address)
        listening.listen(64)
        ours, theirs = socket.socketpair()
        words = [sys.executable, "-m", "tests.cli.forkserver", str(listening.fileno()), str(theirs.fileno())]
        process = subprocess.Popen(
            words,
            cwd=ROOT,
            env=_environment_of_server(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[listening.fileno(), theirs.fileno()],
        )
        theirs.close()

    def end() -> None:
        ours.close()
        process.wait(30)

    atexit.register(end)
    return address


# The server ------------------------------------------------------------------------------------------------------


def _load() -> None:
    import cloned_proxy.__main__  # noqa: PLC0415  what the forks share

    for package in (importlib.import_module(name) for name in _LOADED):
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            if "fleet" not in module.name and not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    _ = cloned_proxy
    gc.collect()
    gc.freeze()  # a collection in a fork would otherwise write to each page


def serve(listening: socket.socket, lifeline: socket.socket) -> bool:
    """Forks for each connection. False when the other end of `lifeline` is closed; True in a fork."""
    waiting: dict[int, tuple[int, socket.socket]] = {}
    """Descriptor of a fork to its process id and to whom its end is told."""
    poll = select.poll()  # it has no descriptor, which a fork would have to close
    poll.register(listening, select.POLLIN)
    poll.register(lifeline, select.POLLIN)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == lifeline.fileno():
                return False
            if descriptor != listening.fileno():
                poll.unregister(descriptor)
                pid, connection = waiting.pop(descriptor)
                os.close(descriptor)
                _tell(connection, os.waitpid(pid, 0)[1])
                connection.close()
                continue
            connection, _address = listening.accept()
            if (pid := _forked(connection)) == 0:
                return True
            if pid > 0:
                watched = os.pidfd_open(pid)
                waiting[watched] = (pid, connection)
                poll.register(watched, select.POLLIN)


def _tell(connection: socket.socket, number: int) -> None:
    with contextlib.suppress(OSError):  # nobody waits for it any more
        connection.sendall(f"{number}\n".encode())


def _forked(connection: socket.socket) -> int:
    """Its process id; 0 in the fork, which then has only what its order gave it; -1 where no order came."""
    size, descriptors, _, _ = socket.recv_fds(connection, 4, 3)
    if len(size) < 4 or len(descriptors) != 3:
        connection.close()
        return -1
    order = b""
    while len(order) < int.from_bytes(size):
        order += (more := connection.recv(_LONGEST_ORDER))
        if not more:
            raise RuntimeError("half an order")
    pid = os.fork()
    if pid:
        for descriptor in descriptors:
            os.close(descriptor)
        _tell(connection, pid)
        return pid
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
    wanted = json.loads(order)
    os.chdir(wanted["cwd"])
    os.environ.clear()
    os.environ.update(wanted["env"])
    time.tzset()
    sys.argv = wanted["argv"]
    if isinstance(sys.stdout, io.TextIOWrapper):  # always; its type alone leaves that open
        sys.stdout.reconfigure(line_buffering=os.isatty(1))
    return 0


def main() -> None:
    listening, lifeline = (socket.socket(fileno=int(word)) for word in sys.argv[1:])
    _load()
    if not serve(listening, lifeline):
        return
    for kept in (listening, lifeline):
        kept.detach()
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    _be_the_program()


def _be_the_program() -> None:
    """Ends as the interpreter does, without taking a thousand modules apart: that would be most of the work."""
    from cloned_proxy.__main__ import main as program  # noqa: PLC0415

    code = 1
    try:
        program()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001  as the interpreter tells it
        traceback.print_exc()
    threading._shutdown()  # type: ignore[attr-defined]  # the interpreter waits for them, too
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
