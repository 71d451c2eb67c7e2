"""What `serve` knows of the warm process: that it is started when the first command comes, and ends with it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from cloned_proxy.cli.terminal.warm_wire import SOCKET

_PROGRAM: Final = ("-P", "-m", "cloned_proxy.cli.warm.server")
"""-P: what lies in the directory in which somebody typed `serve` is not ours to import."""
_LONGEST_PATH: Final = 107
_STEADY_SECONDS: Final = 5.0
_END_SECONDS: Final = 6.0


class Starter:
    """For one workspace."""

    def __init__(self, workspace: Path) -> None:
        self._workspace = workspace
        self._process: subprocess.Popen[bytes] | None = None
        self._started = -_STEADY_SECONDS
        self._closed = False

    def close(self) -> None:
        """Returns when what waited for a command is removed."""
        self._closed = True
        process = self._process
        if process is not None and process.stdin is not None:
            process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_END_SECONDS)

    def want(self) -> None:
        """Commands are run here. Never raises: without it each of them is a process of its own, as always."""
        if self._closed or (self._process is not None and self._process.poll() is None):
            return
        now = time.monotonic()
        if len(bytes(self._workspace.joinpath(*SOCKET))) > _LONGEST_PATH or now - self._started < _STEADY_SECONDS:
            return
        self._started = now
        words = [sys.executable, *_PROGRAM, str(self._workspace)]
        with contextlib.suppress(OSError):
            self._process = subprocess.Popen(  # noqa: S603  this program, with words of our own
                words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
            )
