"""A proxy for the duration of one command, when none serves the workspace; commands beside it use it, too."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Final

from cloned_proxy.local.slot_protocol import SOCKET_PLACE
from cloned_proxy.runner.slots.hold import HeldConnection, Hold, take_hold
from cloned_proxy.runner.values.errors import ProxyLinkError

_START_SECONDS: Final = 20.0
_LOCK_SECONDS: Final = 60.0
_QUIET_SECONDS: Final = 3.0


@contextlib.contextmanager
def proxy_for(workspace: Path, say: Callable[[str], None], *, policy: Path | None = None) -> Iterator[None]:
    """While inside, a proxy serves the workspace: the one that runs, else a borrowed one that the last user ends.

    Raises ProxyLinkError.
    """

    def start() -> HeldConnection:
        with _one_at_a_time(workspace, say):
            with contextlib.suppress(ProxyLinkError):  # somebody else may have started one meanwhile
                return take_hold(workspace)
            say(
                f"no proxy serves {workspace}; starting one for the duration of this command "
                "(`cloned-proxy serve` keeps one)"
            )
            return _start(workspace, policy)

    hold = Hold(workspace, start)
    clean = False
    try:
        yield
        clean = True
    finally:
        hold.close(clean=clean)


@contextlib.contextmanager
def _one_at_a_time(workspace: Path, say: Callable[[str], None]) -> Iterator[None]:
    """The lock is on the directory of the socket; the kernel gives it back when its owner is killed.

    Its owner may have been stopped (Ctrl-Z) and keeps it then. Raises ProxyLinkError after a minute.
    """
    place = workspace.joinpath(*SOCKET_PLACE).parent
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        began, told = time.monotonic(), False
        while not _try_lock(descriptor):
            waited = time.monotonic() - began
            if waited > _LOCK_SECONDS:
                raise ProxyLinkError(
                    f"another command has been starting the proxy of {workspace} for a minute; it may be stopped "
                    "(`jobs`, `fg`): let it go on or end it"
                )
            if waited > _QUIET_SECONDS and not told:
                say(f"another command is starting the proxy of {workspace}; waiting for it")
                told = True
            time.sleep(0.02)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _start(workspace: Path, policy: Path | None) -> HeldConnection:
    # -P: what lies in the directory in which somebody typed `exec` is not ours to import.
    words = [sys.executable, "-P", "-m", "cloned_proxy", "serve", "--standby", "--listen", "127.0.0.1:0"]
    words += ["--metrics", "off", "--control", "off"]
    words += ["--workspace", str(workspace), *(["--policy", str(policy)] if policy is not None else [])]
    # A file, not a pipe: nobody would read the pipe, and a full one would stop the proxy.
    with tempfile.TemporaryFile() as messages:
        # A session of its own: Ctrl-C is for the tool; the proxy stays until the last tool has ended.
        process = subprocess.Popen(  # noqa: S603  this program, with words of our own
            words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=messages, start_new_session=True
        )
        # The borrowed proxy may end before this process does, and is no zombie then.
        threading.Thread(target=process.wait, name="borrowed-proxy", daemon=True).start()
        try:
            return _held_once_it_serves(process, workspace, messages)
        finally:
            # The pipe was this process's hold until now: had it been killed, the proxy would end as well.
            if process.stdin is not None:
                process.stdin.close()


def _held_once_it_serves(process: subprocess.Popen[bytes], workspace: Path, messages: IO[bytes]) -> HeldConnection:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        ended = process.poll() is not None
        with contextlib.suppress(ProxyLinkError):
            return take_hold(workspace)
        if ended or time.monotonic() > deadline:
            process.kill()
            messages.seek(0)
            said = messages.read().decode(errors="replace").strip().splitlines()
            raise ProxyLinkError(f"the proxy did not start: {said[-1] if said else 'no message'}")
        time.sleep(0.05)
