"""Whether the terminal at which `serve` was started is gone: only then does SIGHUP mean that it has to stop."""

from __future__ import annotations

import os
import signal


class Terminal:
    """What the process was started at; to be made before SIGHUP is handled.

    Closing a terminal sends SIGHUP to what runs at it (termios(4)), and `kill -HUP` asks a server to read its policy
    again. A terminal that is gone is none any more, which tells the two apart. Under `nohup`, which has SIGHUP ignored,
    the person has said that the program is to outlive the terminal.
    """

    def __init__(self) -> None:
        outlives = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        self._lines = () if outlives else tuple(line for line in (0, 1, 2) if os.isatty(line))

    def hung_up(self) -> bool:
        """Whether it is gone. From then on what is written to it goes nowhere: the rest of the work is not to fail."""
        if not self._lines or any(os.isatty(line) for line in self._lines):
            return False
        nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for line in self._lines:
            os.dup2(nowhere, line)
        os.close(nowhere)
        return True
