"""Listening sockets inside a container's network namespace, opened from outside before any tool is in it.

A socket belongs for ever to the namespace in which it was made, whichever process holds it. So the host process enters
the namespace for the time of one `socket()` call, in a thread of its own that is then thrown away (setns(2) changes
one thread only), and serves the socket from where it has always been.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloned_proxy.runner.values.errors import SlotError

CAP_NET_ADMIN: Final = 12
_CAP_SYS_PTRACE: Final = 19
_CAP_SYS_ADMIN: Final = 21
_START_TIME_FIELD: Final = 19
"""Field 22 of proc_pid_stat(5), counted from behind the command's closing parenthesis."""


def may_enter() -> bool:
    """Whether this process has the two capabilities that entering another namespace takes."""
    return holds(_CAP_SYS_PTRACE, _CAP_SYS_ADMIN)


def holds(*capabilities: int) -> bool:
    """Whether all of them are effective in this process; numbers of capabilities(7)."""
    wanted = sum(1 << capability for capability in capabilities)
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("CapEff:"):
                return int(line.split()[1], 16) & wanted == wanted
    return False


def start_time(pid: int) -> int:
    """When a process started, in clock ticks since boot: with its pid it names one process for good."""
    return int(_stat(pid)[_START_TIME_FIELD])


def has_ended(pid: int) -> bool:
    """Whether all that is left of a process is its exit code, which its parent has not fetched yet."""
    return _stat(pid)[0] in ("Z", "X")


def _stat(pid: int) -> list[str]:
    """The fields of proc_pid_stat(5) behind the command. Raises OSError."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()


@dataclass(frozen=True, slots=True)
class Namespace:
    """An open descriptor of a container's network namespace. Pids are reused; a descriptor is not."""

    descriptor: int
    container: str
    pid: int
    started: int

    @classmethod
    def of(cls, container: str, pid: int) -> Namespace:
        """The namespace of `container`, whose first process is `pid`. Raises SlotError unless that is certain."""
        descriptor = -1
        try:
            started = start_time(pid)
            descriptor = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            cgroups = Path(f"/proc/{pid}/cgroup").read_text(encoding="ascii", errors="replace")
            # Asked again behind the open: the process that was checked is the one whose namespace is held.
            same = start_time(pid) == started
        except (OSError, ValueError, IndexError) as error:
            _close(descriptor)
            raise SlotError(f"the holder {container[:12]} (pid {pid}) is gone; run the command again") from error
        problem = ""
        if container not in cgroups:
            problem = f"process {pid} is not in container {container[:12]}; is the engine on another machine?"
        elif not same:
            problem = f"process {pid} was replaced while it was looked at; run the command again"
        elif _is_host(descriptor):
            problem = f"container {container[:12]} shares the host's network; a tool is never started there"
        if problem:
            _close(descriptor)
            raise SlotError(problem)
        return cls(descriptor, container, pid, started)

    def alive(self) -> bool:
        """Whether the holder still runs; its namespace outlives it as long as we hold the descriptor."""
        try:
            return start_time(self.pid) == self.started and not has_ended(self.pid)
        except (OSError, ValueError, IndexError):
            return False

    def listen(self, port: int, backlog: int = 128, *, host: str = "127.0.0.1") -> socket.socket:
        """A socket listening on `host`:`port` inside. Raises SlotError."""
        try:
            return self.inside(lambda: listening_socket(host, port, backlog))
        except OSError as error:
            raise SlotError(f"{host}:{port} cannot be opened inside the slot: {_why(error)}") from error

    def inside[T](self, action: Callable[[], T]) -> T:
        """What `action` returns, run in the namespace. Raises SlotError, and what `action` raises."""
        if _is_host(self.descriptor):
            raise SlotError("the slot's namespace is the host's own; refusing to open a tool's listener there")

        def enter_and_act() -> T:
            os.setns(self.descriptor, os.CLONE_NEWNET)
            return action()

        return _in_thread(enter_and_act)

    def close(self) -> None:
        _close(self.descriptor)


def listening_socket(host: str, port: int, backlog: int) -> socket.socket:
    """A TCP socket that listens in the current namespace. Raises OSError."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        # The connections of the run before may still be in TIME_WAIT.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(backlog)
    except OSError:
        sock.close()
        raise
    return sock


def _is_host(descriptor: int) -> bool:
    own, other = Path("/proc/self/ns/net").stat(), os.fstat(descriptor)
    return (own.st_dev, own.st_ino) == (other.st_dev, other.st_ino)


def _why(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "something of the previous run still listens there; the slot is thrown away, run the command again"
    if error.errno == errno.EPERM:
        return "entering a network namespace takes CAP_SYS_ADMIN and CAP_SYS_PTRACE"
    return error.strerror or str(error)


def _close(descriptor: int) -> None:
    if descriptor >= 0:
        with contextlib.suppress(OSError):
            os.close(descriptor)


def _in_thread[T](action: Callable[[], T]) -> T:
    """Runs `action` in a thread that ends with it: the thread, not the process, is in the other namespace."""
    made: list[T] = []
    failed: list[OSError] = []

    def body() -> None:
        try:
            made.append(action())
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=body, name="netns", daemon=True)
    thread.start()
    thread.join()
    if not made:
        raise failed[0] if failed else SlotError("the namespace thread ended without a socket")
    return made[0]
