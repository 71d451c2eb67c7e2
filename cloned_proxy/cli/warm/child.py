"""One process for one command: forked with everything imported, and where it could be, with a container that waits.

It becomes the process that was typed: its streams, directory, environment and signals. From there on it is `exec` as
it always is, so that there is one way in which a command is run, and whoever kills this process kills that one.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloned_proxy.cli.commands.sandbox.exec_job import check_project, job_of
from cloned_proxy.cli.commands.sandbox.exec_options import ExecOptions
from cloned_proxy.cli.commands.sandbox.exec_run import run_command, runner_for
from cloned_proxy.cli.start.ending import exit_code_of
from cloned_proxy.cli.start.quick import quick_exec
from cloned_proxy.cli.terminal.warm_wire import BEGUN, DECLINED, DESCRIPTORS, ENDED, GO, MOST_BYTES, WarmRequest
from cloned_proxy.local.slot_protocol import encode
from cloned_proxy.program_name import program_name
from cloned_proxy.runner.runs.prepared import Prepared
from cloned_proxy.runner.slots.hold import take_hold
from cloned_proxy.store.workspaces.workspace import Workspace

DONE: Final = b"done"
"""Tells the server that the command has ended, and that another one like it may come."""
READY: Final = b"ready"
"""A container waits."""
WAITS: Final = "cloned-ready"
"""What `ps` calls a process that waits for a command (proc_pid_comm(5): at most 15 characters)."""
_OWN_NAME: Final = Path("/proc/self/comm")
_GRACE_SECONDS: Final = 3.0
"""For the removal of what it has, when the one who typed the command is gone; the caretaker does it after that."""
_LEAVE_SECONDS: Final = 5.0
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP)


@dataclass(frozen=True, slots=True)
class Typed:
    """A command, and the connection to the process that was typed."""

    conn: socket.socket
    request: WarmRequest
    descriptors: Sequence[int]
    """The descriptors that came with the command, in the order of `wire.DESCRIPTORS`."""


def run_for(typed: Typed, control: socket.socket, workspace: Path, prepared: Prepared | None = None) -> None:
    """Runs the command, and tells both sides."""
    with typed.conn as conn:
        _become(typed)
        _OWN_NAME.write_text("cloned-exec", encoding="ascii")
        options = quick_exec(typed.request.argv[1:])
        if options is None or Workspace.find(options.workspace).root != workspace:
            conn.send(DECLINED)
            return
        socket.send_fds(conn, [BEGUN], [os.pidfd_open(os.getpid())])
        if conn.recv(len(GO)) != GO:
            return
        over = threading.Event()
        threading.Thread(target=_end_with, args=(conn, over), name="typed-process", daemon=True).start()
        code = _run(options, prepared)
        over.set()
        _let_go_of_streams()
        with contextlib.suppress(OSError):
            conn.send(ENDED + b"%d" % code)
    with contextlib.suppress(OSError):
        control.send(DONE)


def _run(options: ExecOptions, prepared: Prepared | None) -> int:
    try:
        code = exit_code_of(lambda: run_command(options, prepared=prepared)) or 0
    except SystemExit as end:  # a signal
        code = end.code if isinstance(end.code, int) else 1
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    return code


def _let_go_of_streams() -> None:
    """Whoever reads the command's output to its end need not wait for the removal of what it had."""
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for standard in range(3):
        os.dup2(nothing, standard)
    os.close(nothing)


def _become(typed: Typed) -> None:
    """Raises OSError."""
    request, (*standard, directory) = typed.request, typed.descriptors
    for number, descriptor in enumerate(standard):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.fchdir(directory)
    os.close(directory)
    _take_over(request)
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN if number in request.ignored else signal.SIG_DFL)
    if signal.SIGINT not in request.ignored:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stdin = open(0, closefd=False, encoding="utf-8", errors="surrogateescape")  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False, encoding="utf-8", errors="surrogateescape")  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False, encoding="utf-8", errors="backslashreplace", buffering=1)  # noqa: SIM115


def _take_over(request: WarmRequest) -> None:
    """What it was typed with, and nothing of this process's own."""
    os.environb.clear()
    for entry in request.environment:
        name, _, value = entry.partition(b"=")
        os.environb[name] = value
    time.tzset()
    os.umask(request.umask)
    sys.argv = request.argv
    program_name.cache_clear()


def _end_with(conn: socket.socket, over: threading.Event) -> None:
    """Whoever typed the command says nothing any more: what comes is the end."""
    with contextlib.suppress(OSError):
        conn.recv(1)
    if over.is_set():
        return
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_GRACE_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def wait_ready(request: WarmRequest, control: socket.socket, workspace: Path) -> None:
    """Makes a container for a command like this one, and runs the next such command in it."""
    os.chdir(request.cwd)
    _take_over(request)
    options = quick_exec(request.argv[1:])
    if options is None:
        return
    with _prepared(options, workspace) as (prepared, hold):
        if prepared is None:
            return
        control.send(READY)
        _OWN_NAME.write_text(WAITS, encoding="ascii")
        select.select([control, hold], [], [])
        # Without a message the server wants the place for another one, or has ended; or the proxy has.
        control.setblocking(False)
        with contextlib.suppress(OSError):
            message, descriptors, _, _ = socket.recv_fds(control, MOST_BYTES, DESCRIPTORS + 1)
            if message and len(descriptors) == DESCRIPTORS + 1:
                control.setblocking(True)
                typed = Typed(socket.socket(fileno=descriptors[0]), WarmRequest.decode(message), descriptors[1:])
                run_for(typed, control, workspace, prepared)


@contextlib.contextmanager
def _prepared(options: ExecOptions, workspace: Path) -> Iterator[tuple[Prepared | None, socket.socket]]:
    """Raises SandboxError, StoreError and CommandError. The proxy's caretaker knows of this process meanwhile."""
    check_project(options.files, workspace)
    job = job_of(options, Workspace(workspace).sandbox_settings())
    held = take_hold(workspace)
    with held.sock:
        with runner_for(options, workspace) as runner:
            prepared = None if held.borrowed else runner.prepare(job)
            with contextlib.nullcontext() if prepared is None else contextlib.closing(prepared):
                yield prepared, held.sock
        # Everything is removed. Without this word the caretaker looks for what may be left.
        with contextlib.suppress(OSError):
            held.sock.settimeout(_LEAVE_SECONDS)
            held.sock.send(encode(op="leave"))
            held.sock.recv(1)
