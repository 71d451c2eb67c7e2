"""The process that forks one for each `exec`: it has everything imported, and runs nothing itself.

python -m cloned_proxy.cli.warm.server WORKSPACE, started by `serve` (`starter`); its standard input ends with that.

It has one thread and no connection of its own: what is forked shares nothing with it but what was imported.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloned_proxy.cli.terminal.warm_wire import DECLINED, DESCRIPTORS, HELLO, MOST_BYTES, SOCKET, WarmRequest, here
from cloned_proxy.cli.warm.child import DONE, READY, Typed, run_for, wait_ready
from cloned_proxy.local.unix_sockets import new_socket, peer_user

_MOST_READY: Final = 2
"""Containers that wait, each for another kind of command."""
_IDLE_SECONDS: Final = 900.0
"""Seconds without a command after which the waiting processes end, and then this one; the same as in `slot_shelf`."""
_PARTING_SECONDS: Final = 5.0
_HOPELESS_SECONDS: Final = 60.0
"""What could not be prepared is not tried again before."""
_MOST_HOPELESS: Final = 100
_BACKLOG: Final = 64
_MOST_CHILDREN: Final = 256

_IMPORTED_LATER: Final = (
    "cloned_proxy.cli.show.output",
    "cloned_proxy.store.audit.audit_log",
    "cloned_proxy.store.settings.settings_cache",
)
"""What a command that was typed imports while the engine is at work."""

type Kind = tuple[str, ...]


@dataclass(slots=True, eq=False)
class _Child:
    pid: int
    control: socket.socket
    request: WarmRequest
    waits: bool
    """Whether the process makes a container, or has one ready."""
    ready: bool = False
    done: bool = False
    """The command of this process has ended, and the process removes what it had."""
    since: float = 0.0


class WarmServer:
    """One for each `serve`."""

    def __init__(self, workspace: Path) -> None:
        self._workspace = workspace
        self._path = workspace.joinpath(*SOCKET)
        self._mark = here()
        self._listening = new_socket()
        self._poll = select.poll()
        self._new: dict[int, socket.socket] = {}
        """Connections that have not said what they want, by descriptor."""
        self._children: dict[int, _Child] = {}
        """The processes that this one has started, by the descriptor of their `control` socket."""
        self._hopeless: dict[Kind, float] = {}
        self._used = time.monotonic()

    def run(self) -> None:
        """Until `serve` ends, or nobody has wanted anything for long. Raises OSError."""
        self._path.unlink(missing_ok=True)
        self._listening.bind(str(self._path))
        self._path.chmod(0o600)
        self._listening.listen(_BACKLOG)
        own = self._path.stat().st_ino
        self._poll.register(0, select.POLLIN)
        self._poll.register(self._listening, select.POLLIN)
        try:
            while self._children or time.monotonic() - self._used < _IDLE_SECONDS:
                for descriptor, _ in self._poll.poll(self._patience()):
                    if descriptor == 0:
                        return
                    self._look(descriptor)
                self._let_go_of_idle()
        finally:
            self._part_from_waiting()
            with contextlib.suppress(OSError):
                if self._path.stat().st_ino == own:  # the next one may have taken the place
                    self._path.unlink()

    def _part_from_waiting(self) -> None:
        """Returns when those that have no command have removed what they had. What runs goes on."""
        waiting = {
            child.control.fileno(): child.control for child in self._children.values() if child.waits or child.done
        }
        ends = select.poll()
        for control in waiting.values():
            with contextlib.suppress(OSError):
                control.shutdown(socket.SHUT_WR)
            ends.register(control, select.POLLIN)
        deadline = time.monotonic() + _PARTING_SECONDS
        while waiting and (left := deadline - time.monotonic()) > 0:
            for descriptor, _ in ends.poll(left * 1000):
                with contextlib.suppress(ConnectionError):
                    if waiting[descriptor].recv(64):  # it has just become ready
                        continue
                ends.unregister(descriptor)
                del waiting[descriptor]

    def _patience(self) -> float:
        """Milliseconds."""
        oldest = min((child.since for child in self._children.values() if child.ready), default=self._used)
        return max(0.0, min(oldest, self._used) + _IDLE_SECONDS - time.monotonic()) * 1000 + 1000

    def _look(self, descriptor: int) -> None:
        if descriptor == self._listening.fileno():
            self._accept()
        elif descriptor in self._new:
            self._receive(descriptor)
        elif descriptor in self._children:
            self._hear(self._children[descriptor])

    def _accept(self) -> None:
        conn, _ = self._listening.accept()
        if peer_user(conn) != os.geteuid() or len(self._new) + len(self._children) >= _MOST_CHILDREN:
            conn.close()
            return
        conn.setblocking(False)
        with contextlib.suppress(OSError):
            conn.send(HELLO)
        self._new[conn.fileno()] = conn
        self._poll.register(conn, select.POLLIN)

    def _receive(self, descriptor: int) -> None:
        conn = self._new.pop(descriptor)
        self._poll.unregister(descriptor)
        message, flags = b"", 0
        descriptors: list[int] = []
        with conn, contextlib.ExitStack() as close:
            with contextlib.suppress(OSError):
                message, descriptors, flags, _ = socket.recv_fds(conn, MOST_BYTES, DESCRIPTORS)
            for each in descriptors:
                close.callback(os.close, each)
            cut = flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or len(descriptors) != DESCRIPTORS
            conn.setblocking(True)
            try:
                request = WarmRequest.decode(message)
            except ValueError:
                request = None
            if request is None or cut or request.mark != self._mark:
                with contextlib.suppress(OSError):
                    conn.send(DECLINED)
                return
            self._used = time.monotonic()
            self._give(Typed(conn, request, descriptors), message)

    def _give(self, typed: Typed, message: bytes) -> None:
        """Gives the command to a process that waits for such a one, else to a new process."""
        kept = (typed.conn.fileno(), *typed.descriptors)
        for child in self._children.values():
            if child.ready and child.request.kind == typed.request.kind:
                child.ready = child.waits = False
                child.request = typed.request
                with contextlib.suppress(OSError):
                    socket.send_fds(child.control, [message], kept)
                    return
        self._fork(typed.request, lambda control: run_for(typed, control, self._workspace), waits=False, keep=kept)

    def _hear(self, child: _Child) -> None:
        try:
            said = child.control.recv(64)
        except OSError:
            said = b""
        if said == READY:
            child.ready, child.since = True, time.monotonic()
        elif said == DONE:
            child.done = True
            self._prepare_for(child.request)
        else:
            self._forget(child)

    def _forget(self, child: _Child) -> None:
        """Takes a process off the list that has ended, or ends."""
        if child.waits and not child.ready:
            if len(self._hopeless) >= _MOST_HOPELESS:
                self._hopeless.clear()
            self._hopeless[child.request.kind] = time.monotonic()
        del self._children[child.control.fileno()]
        self._poll.unregister(child.control)
        child.control.close()

    def _prepare_for(self, request: WarmRequest) -> None:
        """Has a container made for the next command of that kind."""
        kind, now = request.kind, time.monotonic()
        waiting = [child for child in self._children.values() if child.waits]
        hopeless = now - self._hopeless.get(kind, -_HOPELESS_SECONDS) < _HOPELESS_SECONDS
        if hopeless or any(child.request.kind == kind for child in waiting):
            return
        if len(waiting) >= _MOST_READY:
            self._let_go(min(waiting, key=lambda child: child.since))
        self._fork(request, lambda control: wait_ready(request, control, self._workspace), waits=True, keep=())

    def _let_go_of_idle(self) -> None:
        now = time.monotonic()
        for child in tuple(self._children.values()):
            if child.ready and now - child.since >= _IDLE_SECONDS:
                self._let_go(child)

    def _let_go(self, child: _Child) -> None:
        """Lets a process end: it removes its container when it reads the end of `control`."""
        child.ready = True  # whatever it was at, that it ends says nothing about its kind
        self._forget(child)

    def _fork(
        self, request: WarmRequest, work: Callable[[socket.socket], None], *, waits: bool, keep: tuple[int, ...]
    ) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid:
            theirs.close()
            self._children[ours.fileno()] = _Child(pid, ours, request, waits, since=time.monotonic())
            self._poll.register(ours, select.POLLIN)
            return
        code = 1
        try:
            _start_over(
                [self._listening, ours, *self._new.values(), *(c.control for c in self._children.values())], keep
            )
            work(theirs)
            code = 0
        except BaseException:  # noqa: BLE001  it must not come back into the loop above
            if not waits:
                traceback.print_exc()
        finally:
            os._exit(code)


def _start_over(others: list[socket.socket], keep: tuple[int, ...]) -> None:
    """A forked process has none of the server's connections, and a session of its own."""
    for sock in others:
        if sock.fileno() not in keep:
            sock.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()


def main() -> None:
    """The word: the directory of the workspace."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a group's signal; it ends with `serve`
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no zombies: waitpid(2), NOTES
    server = WarmServer(Path(sys.argv[1]))
    for name in _IMPORTED_LATER:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # what is imported stays shared with those that are forked
    server.run()


if __name__ == "__main__":
    main()
