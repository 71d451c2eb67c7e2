"""`cloned-proxy` at a pseudo-terminal of its own, as somebody who types and looks at the screen."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

PROGRAM: Final = [sys.executable, "-m", "cloned_proxy"]
_ESCAPES: Final = re.compile(rb"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[()][0-9A-Za-z]|[=>78cM])")
SECONDS: Final = 60.0
"""How long a thing may take on a loaded machine."""


class AtTerminal:
    """A context manager. The program leads a session whose terminal this is, as one that a login shell started."""

    def __init__(
        self,
        words: Sequence[str],
        *,
        rows: int = 24,
        columns: int = 80,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self._master, self.line = pty.openpty()
        self.resize(rows, columns, tell=False)
        self.before = self.modes()
        environment = {**os.environ, "TERM": "xterm-256color", **(env or {})}
        self.process = subprocess.Popen(
            [*PROGRAM, *words],
            stdin=self.line,
            stdout=self.line,
            stderr=self.line,
            env=environment,
            cwd=cwd,
            start_new_session=True,
            preexec_fn=_take_terminal,  # noqa: PLW1509  one thread in the child, and one call
        )
        self._seen = b""
        self._read = 0
        self._changed = threading.Condition()
        self._closed = False
        self._looking = threading.Thread(target=self._look, daemon=True)
        self._looking.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(SECONDS)
        if not self._closed:
            self.hang_up()
        os.close(self.line)

    def type(self, keys: str | bytes) -> None:
        left = keys.encode() if isinstance(keys, str) else keys
        while left:
            left = left[os.write(self._master, left) :]

    def see(self, pattern: str) -> None:
        """Waits until the pattern is shown, escape sequences left out, behind what was seen before."""
        assert self._wait_for(pattern, SECONDS), f"{pattern!r} was not shown, but: {self._seen[self._read :]!r}"

    def insist(self, keys: str, pattern: str) -> None:
        """Types until the pattern is shown: programs drop keys that come faster than a person's."""
        for _ in range(30):
            self.type(keys)
            if self._wait_for(pattern, SECONDS / 30):
                return
        self.see(pattern)

    def _wait_for(self, pattern: str, seconds: float) -> bool:
        wanted = re.compile(pattern.encode(), re.DOTALL)
        with self._changed:
            shown = self._changed.wait_for(
                lambda: wanted.search(_ESCAPES.sub(b"", self._seen[self._read :])) is not None, seconds
            )
            if shown:
                self._read = len(self._seen)
            return shown

    @property
    def shown(self) -> bytes:
        """All that was ever shown."""
        with self._changed:
            return self._seen

    def resize(self, rows: int, columns: int, *, tell: bool = True) -> None:
        termios.tcsetwinsize(self.line, (rows, columns))
        if tell:  # the kernel tells the foreground process group, to which the program belongs
            self.process.send_signal(signal.SIGWINCH)

    def modes(self) -> list[Any]:
        """What tcgetattr(3) says of the terminal."""
        return termios.tcgetattr(self.line)

    def hang_up(self) -> None:
        """The window is closed."""
        self._closed = True
        self._looking.join(SECONDS)  # who still reads keeps it open
        os.close(self._master)

    def ends(self) -> int:
        """Waits for the program's end; returns its exit code."""
        return self.process.wait(SECONDS)

    def _look(self) -> None:
        while not self._closed:
            if not select.select([self._master], [], [], 0.1)[0]:
                continue
            piece = os.read(self._master, 65_536)
            with self._changed:
                self._seen += piece
                self._changed.notify_all()


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
