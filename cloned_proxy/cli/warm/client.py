"""The typed end of a warm `exec`: it hands over what it inherited, passes signals on, and ends with the exit code.

Where no process takes the command (none is there, another user's, another installation, another container) it does
nothing, and `exec` goes on as it always does. Nothing is imported here that this can do without.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys

from cloned_proxy.cli.terminal.warm_wire import BEGUN, DECLINED, ENDED, GO, HELLO, MOST_BYTES, SOCKET, WarmRequest, here

_PEER = 12
"""Bytes of `struct ucred`, unix(7): pid, uid, gid."""
_LONGEST_PATH = 107
_ANSWER_BYTES = 64
_CHUNK = 65_536
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LOST = 1
_AGAIN_MS = 300
"""A signal that comes between a look for signals and the system call behind it is seen only after that; so it is sent
again, and whoever is ending takes no notice of it."""
_PATIENCE = 5.0
"""Seconds for an answer, until a process has taken the command."""


def passed_on(argv: list[str]) -> int | None:
    """The exit code of the command, run by a warm process; None where this process has to run it itself."""
    words = argv[1:]
    if words[:1] != ["exec"] or "--" not in words or os.path.basename(argv[0]) not in ("cloned-proxy", "__main__.py"):  # noqa: PTH119  no pathlib
        return None
    try:
        place = _workspace(words[: words.index("--")])
        with _connected(place) as conn:
            conn.settimeout(_PATIENCE)
            if conn.recv(_ANSWER_BYTES) != HELLO:
                return None
            conn.settimeout(None)
            return _Passing(conn).run(argv)
    except OSError:
        return None


def _workspace(options: list[str]) -> str:
    """The workspace that `Workspace.find` would give.

    This is a guess: the process that runs the command looks again.
    """
    for number, word in enumerate(options):
        if word.startswith("--workspace="):
            return word.partition("=")[2]
        if word == "--workspace" and number + 1 < len(options):
            return options[number + 1]
    if named := os.environ.get("CLONED_WORKSPACE"):
        return named
    here_now = os.getcwd()  # noqa: PTH109
    while not os.path.isdir(os.path.join(here_now, ".cloned")):  # noqa: PTH112, PTH118
        above = os.path.dirname(here_now)  # noqa: PTH120
        if above == here_now:
            raise FileNotFoundError(".cloned")
        here_now = above
    return os.path.join(here_now, ".cloned")  # noqa: PTH118


def _connected(workspace: str) -> socket.socket:
    """Raises OSError where nobody of this user listens."""
    path = os.path.join(workspace, *SOCKET)  # noqa: PTH118
    if len(os.fsencode(path)) > _LONGEST_PATH or workspace.startswith("~"):
        raise FileNotFoundError(path)
    conn = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        conn.connect(path)
        peer = conn.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER)
    except BaseException:
        conn.close()
        raise
    if int.from_bytes(peer[4:8], sys.byteorder) == os.geteuid():
        return conn
    conn.close()
    raise PermissionError(path)


class _Passing:
    """One command at another process."""

    def __init__(self, conn: socket.socket) -> None:
        self._conn = conn
        self._process = -1
        """Descriptor (pidfd) of the process that runs the command; -1 before it has begun."""
        self._received: list[int] = []
        """Signals before that, and behind it the last one."""
        self._typed = -1
        """The end of a pipe for what is typed, where standard input is a terminal."""

    def run(self, argv: list[str]) -> int | None:
        """Raises OSError while nothing has begun."""
        for standard in range(3):
            os.fstat(standard)
        reading = self._pipe_for_typing() if os.isatty(0) else os.dup(0)
        before = {int(number): signal.getsignal(number) for number in _PASSED_ON}
        ignored: list[int] = [number for number, handler in before.items() if handler is signal.SIG_IGN]
        directory = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            request = WarmRequest(mark=here(), umask=_umask(), ignored=ignored, cwd=os.getcwd(), argv=argv)  # noqa: PTH109
            request.environment = [name + b"=" + value for name, value in os.environb.items()]
            message = request.encode()
            if len(message) > MOST_BYTES:
                return None
            for number in before:
                if number not in ignored:
                    signal.signal(number, self._pass_on)
            if signal.getsignal(signal.SIGTSTP) is signal.SIG_DFL:
                signal.signal(signal.SIGTSTP, self._stop)
            socket.send_fds(self._conn, [message], [reading, 1, 2, directory])
        finally:
            os.close(reading)
            os.close(directory)
        code = self._until_it_ends()
        if code is None:  # it has not begun: everything is as it was
            for number, handler in before.items():
                signal.signal(number, handler)
            for number in self._received:
                os.kill(os.getpid(), number)
        return code

    def _pipe_for_typing(self) -> int:
        """A terminal stays this process's own: after Ctrl-Z nobody else may take what is typed to the shell."""
        reading, self._typed = os.pipe2(os.O_CLOEXEC)
        return reading

    def _until_it_ends(self) -> int | None:
        poll = select.poll()
        poll.register(self._conn, select.POLLIN)
        try:
            while True:
                ready = [
                    descriptor for descriptor, _ in poll.poll(_PATIENCE * 1000 if self._process < 0 else _AGAIN_MS)
                ]
                if not ready and self._process < 0:  # it is stopped, or this machine is: the other way is as good
                    return None
                if not ready and self._received:
                    self._send(self._received[0])
                if 0 in ready and not self._take_typed():
                    poll.unregister(0)
                if self._conn.fileno() not in ready:
                    continue
                said, descriptors = self._hear()
                if said != BEGUN or not descriptors:
                    return self._end(said)
                self._begin(descriptors[0])
                if self._typed >= 0:
                    poll.register(0, select.POLLIN)
        finally:
            if signal.getsignal(signal.SIGTSTP) == self._stop:
                signal.signal(signal.SIGTSTP, signal.SIG_DFL)
            if self._typed >= 0:
                os.close(self._typed)

    def _hear(self) -> tuple[bytes, list[int]]:
        """Nothing at the end."""
        try:
            said, descriptors, _, _ = socket.recv_fds(self._conn, _ANSWER_BYTES, 1)
        except ConnectionError:
            return b"", []
        return said, descriptors

    def _end(self, said: bytes) -> int | None:
        """The exit code; None where nothing has begun."""
        if said.startswith(ENDED):
            return int(said.removeprefix(ENDED))
        return None if said == DECLINED or self._process < 0 else self._lost()

    def _begin(self, process: int) -> None:
        self._process = process
        try:
            self._conn.send(GO)
        except OSError:  # it has ended: the next message says so
            return
        for number in self._received:
            self._send(number)

    def _take_typed(self) -> bool:
        """Whether there is more to come. Never raises: the command may be at work already."""
        try:
            data = os.read(0, _CHUNK)
            while data:
                data = data[os.write(self._typed, data) :]
                if not data:
                    return True
        except OSError:  # the terminal is gone, or nobody reads any more
            data = b""
        os.close(self._typed)
        self._typed = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        return False

    def _pass_on(self, number: int, _frame: object) -> None:
        self._received.append(number)
        if self._process >= 0:
            self._send(number)

    def _stop(self, number: int, _frame: object) -> None:
        """Ctrl-Z: whoever runs the command stops with this process, and goes on with it."""
        if self._process >= 0:
            self._send(signal.SIGSTOP)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        signal.signal(number, self._stop)
        if self._process >= 0:
            self._send(signal.SIGCONT)

    def _send(self, number: int) -> None:
        try:
            signal.pidfd_send_signal(self._process, number)
        except ProcessLookupError:
            return

    def _lost(self) -> int:
        """The other process ended without a word: killed, or by a signal that came before it was ready for one."""
        if self._received:
            return 128 + self._received[-1]
        sys.stderr.write(
            "cloned-proxy: the process that ran the command was ended from outside; its container is removed: "
            "run it again\n"
        )
        return _LOST


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
