"""One place under the supervisor that a child process fills: when the next one starts, the fork, the child's life.

A child is forked rather than started afresh because its imports alone take longer than the second in which a worker
must be back.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import structlog

from cloned_proxy.proxy.serving.pipes import SIGNALS, Pipes
from cloned_proxy.proxy.serving.worker import Ties

_log = structlog.get_logger(__name__)

_STEADY_SECONDS: Final = 2.0
"""A child that lived so long is replaced at once when it dies; one that dies sooner, again and again, ever later."""
_FIRST_DELAY: Final = 0.25
_LONGEST_DELAY: Final = 30.0
_HUNG_SECONDS: Final = 15.0
"""Workers report each second; a reload of the largest policy stalls one for a fraction of that."""


@dataclass(slots=True, eq=False)
class ChildProcess:
    """The process that fills the place now, and the history on which the next start depends."""

    name: str
    work: Callable[[Ties], None]
    """Runs in the child."""
    vacated: Callable[[], None]
    """Cleans up behind a child that is no more."""
    silent: Callable[[], float] = lambda: 0.0
    """Seconds since the child was last heard of."""
    pid: int = 0
    """0: nobody."""
    since: float = 0.0
    due: float = 0.0
    """When the next child is to start (monotonic)."""
    quick_deaths: int = 0

    def start(self, pipes: Pipes) -> None:
        """Forks the next child. One that cannot be forked counts as one that died at once."""
        sys.stdout.flush()
        sys.stderr.flush()
        self.since = time.monotonic()
        # Blocked over the fork: a signal that comes before the child has its own handlers must wait, not vanish.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                _live(self, pipes)
            self.pid = pid
        except OSError as error:
            _log.error("a process could not be started; tried again", place=self.name, reason=str(error))
            self.died(self.since)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def died(self, now: float) -> None:
        self.pid = 0
        self.vacated()
        if now - self.since >= _STEADY_SECONDS:
            self.quick_deaths = 0
        # The first one is an accident, and its successor comes at once.
        delay = min(_FIRST_DELAY * 2**self.quick_deaths, _LONGEST_DELAY) if self.quick_deaths else 0.0
        self.quick_deaths += 1
        self.due = now + delay

    def end_if_hung(self) -> None:
        """A worker whose loop stands still keeps its clients waiting; killed, it is replaced like one that died."""
        if self.silent() >= _HUNG_SECONDS:
            _log.error("a process does not respond and is killed", place=self.name)
            os.kill(self.pid, signal.SIGKILL)


def _live(child: ChildProcess, pipes: Pipes) -> None:
    """The whole life of a child. Never returns: the supervisor's stack above is not the child's to unwind."""
    code = 1
    try:
        pipes.forget_signals()
        # A terminal sends these to every process of its group; the supervisor says what they mean for a worker.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        child.work(pipes.childs_ends())
        code = 0
    except Exception as error:  # noqa: BLE001  the last frame of the process: what it does not tell, nobody tells
        _log.error("a process of the proxy failed", place=child.name, reason=f"{type(error).__name__}: {error}")
    finally:
        with suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(code)
