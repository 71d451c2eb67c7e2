"""How signals and children reach the supervisor, and how its end reaches them: pipes, which a fork cannot tear."""

from __future__ import annotations

import os
import select
import signal
from contextlib import suppress
from typing import Final, Self

from cloned_proxy.proxy.serving.worker import CUT, Ties

SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, CUT})
"""What the supervisor is told by; all but `CUT`, which is for its workers, wake it."""


class Pipes:
    """How signals and children reach the supervisor, and how its end reaches them."""

    def __enter__(self) -> Self:
        self._lifeline, self._alive = os.pipe()
        self._ready, self._tell_ready = os.pipe()
        self._woken, self._wake = os.pipe()
        for descriptor in (self._ready, self._woken, self._wake):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(self._wake)
        for number in SIGNALS - {CUT}:
            signal.signal(number, _noted)
        return self

    def __exit__(self, *_: object) -> None:
        self.forget_signals()
        for descriptor in (self._lifeline, self._alive, self._ready, self._tell_ready, self._woken, self._wake):
            with suppress(OSError):
                os.close(descriptor)

    @staticmethod
    def forget_signals() -> None:
        """Back to what a program starts with."""
        signal.set_wakeup_fd(-1)
        for number in SIGNALS - {CUT}:
            signal.signal(number, signal.SIG_DFL)

    def wait(self, seconds: float) -> None:
        select.select([self._woken, self._ready], [], [], seconds)

    def signals(self) -> bytes:
        return _drain(self._woken)

    def ready(self) -> bytes:
        """Numbers of workers that have begun to serve."""
        return _drain(self._ready)

    def childs_ends(self) -> Ties:
        """In a child: closes the supervisor's ends, of which the lifeline's must have no other holder."""
        for descriptor in (self._alive, self._ready, self._woken, self._wake):
            os.close(descriptor)
        return Ties(self._lifeline, self._tell_ready, SIGNALS)


def _noted(_number: int, _frame: object) -> None:
    """The wake-up descriptor tells; a handler must be there for that."""


def _drain(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except BlockingIOError:
        return b""
