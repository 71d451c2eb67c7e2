"""The process that `tests.cli.forkserver` starts: it loads the program once, and becomes it again and again by forking.

`python -m tests.cli.fork_loop LISTENING LIFELINE`, both descriptors of sockets. An order is a connection: the length
of a JSON object `{"argv", "env", "cwd"}` with three descriptors, then the object. The answer is the process id, and at
its end what waitpid(2) says of it, each a line.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import io
import json
import os
import pkgutil
import select
import signal
import socket
import sys
import threading
import time
import traceback
from typing import Final

_LOADED: Final = ("cloned_proxy.cli", "cloned_proxy.policy", "cloned_proxy.store", "cloned_proxy.proxy")
"""Packages that the server loads whole. What it does not load, a fork loads by itself, as a fresh process would."""
_PR_SET_PDEATHSIG: Final = 1
_LONGEST_ORDER: Final = 200_000


def _load() -> None:
    import encodings.idna  # noqa: PLC0415  what the forks share

    import typer._adapters  # noqa: PLC0415
    import uvloop  # noqa: PLC0415

    import cloned_proxy.__main__  # noqa: PLC0415
    from cloned_proxy.cli.start.app import program  # noqa: PLC0415

    for package in (importlib.import_module(name) for name in _LOADED):
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            if "fleet" not in module.name and not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    _ = cloned_proxy, encodings, typer, uvloop
    program()
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
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # it lives as long as the server, and no longer
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
