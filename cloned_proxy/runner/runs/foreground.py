"""A command that was started straight in a terminal has no shell to go back to: when it is stopped, it goes on.

Ctrl-Z stops what is in the foreground. Where that is the command itself, nobody inside could ever continue it: its
parent is the container's init, which waits for its end. The terminal would be dead.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.values.errors import SandboxError

_POLL_SECONDS: Final = 0.25
_PROC: Final = Path("/proc")
_STOPPED: Final = "T"


@contextlib.contextmanager
def kept_going(engine: Engine, container: str) -> Iterator[None]:
    """While inside, the container's command is continued whenever it has stopped.

    Of an engine in a machine of its own the processes are not to be seen here, and nothing happens.
    """
    over = threading.Event()
    thread = threading.Thread(target=_watch, args=(engine, container, over), name="foreground", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _watch(engine: Engine, container: str, over: threading.Event) -> None:
    # One that has ended meanwhile, or an engine that has: whoever waits for the container finds that out.
    with contextlib.suppress(SandboxError):
        init = engine.state(container).pid
        while not over.wait(_POLL_SECONDS):
            if any(state_of(process) == _STOPPED for process in children_of(init)):
                engine.kill(container, "SIGCONT")


def children_of(process: int) -> list[int]:
    """Process ids; none of one that is gone."""
    try:
        return [int(text) for text in (_PROC / f"{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


def state_of(process: int) -> str:
    """The letter of proc_pid_stat(5); "" for one that is gone. The name before it may hold any character."""
    try:
        return (_PROC / f"{process}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""
