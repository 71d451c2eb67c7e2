"""What `serve` says at a terminal while it runs: one line for each call that is refused for the first time.

A process of its own reads the log: the proxy, whose event loop must not wait for a terminal, has nothing to do with it,
and several workers are like one. It ends with its lifeline, however `serve` ends.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from cloned_proxy.cli.show.denials import Denials
from cloned_proxy.cli.show.entries import lines
from cloned_proxy.cli.show.errors import say
from cloned_proxy.cli.show.output import put
from cloned_proxy.store.audit.audit_log import AuditLog
from cloned_proxy.store.files.errors import StoreError

_POLL_SECONDS: Final = 0.25
_WINDOW_SECONDS: Final = 10.0
_MOST_IN_WINDOW: Final = 8
"""Denials that are shown within so many seconds; of the others, how many there were."""
_STOP_SECONDS: Final = 3.0


@contextlib.contextmanager
def denials_shown(state_db: Path, *, wanted: bool) -> Iterator[None]:
    """While inside, new denials are shown on stderr, if that is a terminal and they are `wanted`. Never raises."""
    if not (wanted and sys.stderr.isatty()):
        yield
        return
    try:
        # Read here: what is refused while the process starts is shown, too.
        with AuditLog(state_db) as audit:
            seen = max((entry.seq for entry in audit.entries(last=1)), default=0)
        words = f"from cloned_proxy.cli.commands.serving.watch import main; main({str(state_db)!r}, {seen})"
        process = subprocess.Popen(  # noqa: S603  this program, with a path of our own
            [sys.executable, "-P", "-c", words],
            stdin=subprocess.PIPE,
            stdout=sys.stderr.fileno(),
            start_new_session=True,  # Ctrl-C is for `serve`, which ends this one
        )
    except (OSError, StoreError):
        yield  # the log has them all
        return
    try:
        yield
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Forked workers hold copies of the lifeline while they drain, so it is told as well."""
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdin is not None:
        process.stdin.close()


def main(state_db: str, seen: int) -> None:
    """The process: until the other end of stdin is closed, or the log cannot be read. Begins behind entry `seen`."""
    denials = Denials(_show, _more, most=_MOST_IN_WINDOW, seconds=_WINDOW_SECONDS)
    with contextlib.suppress(StoreError, OSError), AuditLog(Path(state_db)) as audit:
        while not _is_over():
            for entry in audit.entries(after=seen):
                seen = entry.seq
                if entry.body["verdict"] == "deny":
                    denials.denied(entry.body)
            denials.tick()


def _is_over() -> bool:
    """Waits a moment for the end of the lifeline."""
    readable, _, _ = select.select([0], [], [], _POLL_SECONDS)
    return bool(readable) and os.read(0, 1) == b""


def _show(body: dict[str, Any]) -> None:
    for line in lines(body, clock=True):
        put(line)


def _more(count: int) -> None:
    say(f"and {count} more calls were refused: `cloned-proxy log --denied`")
