"""The terminal at which a command was typed, lent to what runs in the sandbox, and given back after any end.

While it is lent every key is the tool's: Ctrl-C and Ctrl-Z are bytes like others, from which the terminal inside makes
signals for whatever is in its foreground.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import termios
import threading
import tty
from collections.abc import Iterator
from types import FrameType
from typing import Final, Self

from cloned_proxy.cli.show.errors import CommandError
from cloned_proxy.cli.terminal.screen_modes import ScreenModes
from cloned_proxy.runner.docker.stream import Attached, OutputStream
from cloned_proxy.runner.values.terminal import TerminalSize

_STDIN: Final = 0
_STDOUT: Final = 1
_CHUNK: Final = 65_536


class HostTerminal:
    """A context manager for the main thread. `feed` and `show` are the runner's `feed` and `output`."""

    def __init__(self) -> None:
        """Raises CommandError when stdin is no terminal."""
        try:
            self._before = termios.tcgetattr(_STDIN)
        except termios.error as error:
            raise CommandError(
                "-t needs a terminal, and stdin is none; leave it out where input comes from a file or a pipe"
            ) from error
        self._modes = ScreenModes()
        self._lock = threading.Lock()
        self._lent = True
        # What waits on the other ends: a byte for each change of size; the end, when the terminal is given back.
        self._resized, self._on_resize = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._ended, self._on_end = os.pipe2(os.O_CLOEXEC)

    def __enter__(self) -> Self:
        self._handler = signal.signal(signal.SIGWINCH, self._note_resize)
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._lent = False
        os.close(self._on_end)
        signal.signal(signal.SIGWINCH, self._handler)
        self._give_back()

    @property
    def size(self) -> TerminalSize:
        """The size that the terminal has now."""
        try:
            return TerminalSize(*termios.tcgetwinsize(_STDIN))
        except termios.error:  # it has hung up
            return TerminalSize(0, 0)

    def feed(self, stream: Attached) -> None:
        """Sends the keys, and every new size, until the terminal is given back or hangs up."""
        with self._lock:
            if not self._lent:
                return
            tty.setraw(_STDIN, termios.TCSANOW)
        threading.Thread(target=self._resize, args=(stream,), name="terminal-size", daemon=True).start()
        while keys := self._keys():
            stream.write(keys)
        stream.end_input()

    def show(self, _kind: OutputStream, piece: bytes) -> None:
        """Takes output of the tool. Raises OSError when nobody is there to see it."""
        self._modes.see(piece)
        # sys.stdout is passed by: what its buffer could not write it would try to write again at the program's exit.
        left = memoryview(piece)
        while left:
            left = left[os.write(_STDOUT, left) :]

    def _note_resize(self, _number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(BlockingIOError):  # many are on their way already
            os.write(self._on_resize, b"\0")

    def _resize(self, stream: Attached) -> None:
        """Tells the engine the new size.

        The signal's handler must not do so: it may interrupt another call of the engine.
        """
        while True:
            # The size may have changed while the container was made.
            stream.resize(self.size)
            ready, _, _ = select.select([self._resized, self._ended], [], [])
            if self._ended in ready:
                return
            with contextlib.suppress(BlockingIOError):
                os.read(self._resized, _CHUNK)

    def _keys(self) -> bytes:
        """b"" at the end. Keys that come later stay where they are: they are for whoever has the terminal next."""
        ready, _, _ = select.select([_STDIN, self._ended], [], [])
        if self._ended in ready:
            return b""
        try:
            return os.read(_STDIN, _CHUNK)
        except OSError as error:
            if error.errno == errno.EIO:  # the terminal has hung up
                return b""
            raise

    def _give_back(self) -> None:
        """The terminal as it was, whatever the tool has left behind; of one that is gone, nothing."""
        with _not_stopped(), contextlib.suppress(termios.error, OSError):
            termios.tcsetattr(_STDIN, termios.TCSANOW, self._before)
            # A program can ask the terminal something and end: the answer is no input for the shell that comes next.
            termios.tcflush(_STDIN, termios.TCIFLUSH)
            # One that takes no output would hold up the end of this program.
            if (undone := self._modes.undone()) and os.isatty(_STDOUT) and select.select([], [_STDOUT], [], 0)[1]:
                os.write(_STDOUT, undone)


@contextlib.contextmanager
def _not_stopped() -> Iterator[None]:
    """A program in the background that touches its terminal is stopped (SIGTTOU), and would not clean up any more."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
