"""Several workers on one listening socket, and a parent that does nothing but keep them alive.

The parent opens the sockets, forks, waits, and forks again. It has no thread, no event loop and no connection, for two
reasons: there is nothing in it that traffic could break, and a fork of it is safe at any time. A worker is forked
rather than started afresh because its imports alone take longer than the second in which it must be back.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.terms.host_port import host_port
from cloned_proxy.proxy.grants.cells import clear_first_cells
from cloned_proxy.proxy.grants.seat import Seat, make_directory, remove_directory, silent_seconds, vacate
from cloned_proxy.proxy.serving import worker
from cloned_proxy.proxy.serving.pipes import SIGNALS, Pipes
from cloned_proxy.proxy.serving.server import ServeOptions, find_policy
from cloned_proxy.proxy.serving.terminal import Terminal
from cloned_proxy.proxy.serving.worker import CUT, Ties
from cloned_proxy.proxy.transport.listener import bind_tcp
from cloned_proxy.store.audit.audit_log import AuditLog
from cloned_proxy.store.policyfile.policy_file import load_policy
from cloned_proxy.store.workspaces.keys import load_or_create_key
from cloned_proxy.store.workspaces.workspace import Workspace
from cloned_proxy.telemetry.shared import retire_metrics

_log = structlog.get_logger(__name__)

_STEADY_SECONDS: Final = 2.0
"""A child that lived so long is replaced at once when it dies; one that dies sooner, again and again, ever later."""
_FIRST_DELAY: Final = 0.25
_LONGEST_DELAY: Final = 30.0
_OVERTIME_SECONDS: Final = 5.0
"""After the shutdown delay, the drain time and this, a child that has not stopped is killed."""
_LOOK_SECONDS: Final = 1.0
_HUNG_SECONDS: Final = 15.0
"""Workers report each second; a reload of the largest policy stalls one for a fraction of that."""


@dataclass(slots=True, eq=False)
class _Post:
    """One place that a child fills, and the history on which its next start depends."""

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

    def died(self, now: float) -> None:
        self.pid = 0
        self.vacated()
        if now - self.since >= _STEADY_SECONDS:
            self.quick_deaths = 0
        # The first one is an accident, and its successor comes at once.
        delay = min(_FIRST_DELAY * 2**self.quick_deaths, _LONGEST_DELAY) if self.quick_deaths else 0.0
        self.quick_deaths += 1
        self.due = now + delay


@dataclass(frozen=True, slots=True)
class Companion:
    """A process beside the workers that the supervisor keeps alive as well."""

    name: str
    work: Callable[[str, Ties], None]
    """Runs in the child; the text is the proxy's `host:port`."""
    listening: socket.socket
    """The supervisor's own end, opened before the fork; no worker keeps it."""


class Supervisor:
    """`serve --workers N`, from `run` to its end. To be made and run in a process without threads."""

    def __init__(
        self,
        workspace: Workspace,
        options: ServeOptions,
        *,
        workers: int,
        loop_factory: Callable[[], asyncio.AbstractEventLoop],
        companion: Companion | None = None,
    ) -> None:
        """Makes the workspace ready and opens the sockets. Raises StoreError, PolicyError and BindError."""
        with ExitStack() as opened:
            workspace.create()
            config = workspace.config()
            policy_file = find_policy(workspace, config, options.policy_file)
            self.workspace: Final = workspace
            # Read here as well, so that a bad file is one line on a terminal and not a worker that dies.
            self.policy: Final[Policy] = (
                load_policy(policy_file, time.time(), workspace.presets)
                if config.fleet is None
                else Policy(source=str(workspace.fleet_policy))
            )
            load_or_create_key(workspace.identity_key)
            AuditLog(workspace.state_db).close()
            self._listening = bind_tcp(*options.listen)
            opened.callback(self._listening.close)
            self._metrics = bind_tcp(*options.metrics) if options.metrics is not None else None
            if self._metrics is not None:
                opened.callback(self._metrics.close)
            self._directory: Final = make_directory()
            opened.callback(remove_directory, self._directory)
            self._closing: Final = opened.pop_all()
        self.address: Final = host_port(*self._listening.getsockname()[:2])
        self.metrics_address: Final = host_port(*self._metrics.getsockname()[:2]) if self._metrics else None
        self.plane: Final = options.plane.as_data()
        self._companion: Final = companion
        self._terminal: Final = Terminal()
        self._kill_after: Final = config.proxy.shutdown_delay_seconds + config.proxy.drain_seconds + _OVERTIME_SECONDS
        self._workers: Final = [
            self._worker(number, workers, workspace, options, loop_factory) for number in range(workers)
        ]
        self._others: Final = [self._exposition(self._metrics, workers)] if self._metrics is not None else []
        if companion is not None:
            self._others.append(self._beside(companion))
        self._ready: Final[set[int]] = set()
        self._told = self._failed = False
        self._stops = 0
        self._kill_at = float("inf")

    def run(self, on_ready: Callable[[], None]) -> bool:
        """Keeps the workers alive until SIGTERM or SIGINT; False when they did not start.

        `on_ready` is called once, when all of them serve.
        """
        gc.collect()
        gc.freeze()  # what is there now stays shared with the children, instead of being copied by their collectors
        with self._closing, Pipes() as pipes:
            while True:
                if not self._stops:
                    self._fill(pipes)
                pipes.wait(self._patience())
                for number in pipes.signals():
                    self._handle(signal.Signals(number))
                self._reap()
                self._ready.update(pipes.ready())
                if not self._told and len(self._ready) == len(self._workers):
                    self._told = True
                    on_ready()
                if self._stops and not any(post.pid for post in self._workers):
                    self._end_others()
                    _log.info("stopped")
                    return not self._failed

    @property
    def _posts(self) -> list[_Post]:
        return [*self._workers, *self._others]

    def _worker(
        self,
        number: int,
        of: int,
        workspace: Workspace,
        options: ServeOptions,
        loop_factory: Callable[[], asyncio.AbstractEventLoop],
    ) -> _Post:
        metrics: tuple[str, int] | None = self._metrics.getsockname()[:2] if self._metrics is not None else None
        seat = Seat(number, of, self._directory, self._listening, metrics)

        def work(ties: Ties) -> None:
            for listening in self._not_for_workers():
                listening.close()
            worker.serve(seat, ties, workspace, options, loop_factory)

        return _Post(
            f"worker {number}",
            work,
            partial(_clean_up, self._directory, number),
            partial(silent_seconds, self._directory, number),
        )

    def _exposition(self, listening: socket.socket, workers: int) -> _Post:
        def work(ties: Ties) -> None:
            self._listening.close()
            if self._companion is not None:
                self._companion.listening.close()
            worker.expose(listening, self._directory, workers, ties)

        return _Post("exposition", work, lambda: None)

    def _beside(self, companion: Companion) -> _Post:
        def work(ties: Ties) -> None:
            self._listening.close()
            if self._metrics is not None:
                self._metrics.close()
            companion.work(self.address, ties)

        return _Post(companion.name, work, lambda: None)

    def _not_for_workers(self) -> list[socket.socket]:
        companion = [self._companion.listening] if self._companion is not None else []
        return [*companion, *([self._metrics] if self._metrics is not None else [])]

    def _fill(self, pipes: Pipes) -> None:
        now = time.monotonic()
        for post in self._posts:
            if not post.pid and post.due <= now:
                self._start(post, pipes)

    def _start(self, post: _Post, pipes: Pipes) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        post.since = time.monotonic()
        # Blocked over the fork: a signal that comes before the child has its own handlers must wait, not vanish.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                _live(post, pipes)
            post.pid = pid
        except OSError as error:
            _log.error("a process could not be started; tried again", place=post.name, reason=str(error))
            post.died(post.since)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def _patience(self) -> float:
        """Seconds until something is due, if no signal comes first."""
        now = time.monotonic()
        due = [post.due - now for post in self._posts if not post.pid and not self._stops]
        return max(0.0, min([_LOOK_SECONDS, self._kill_at - now, *due]))

    def _handle(self, number: signal.Signals) -> None:
        if number in (signal.SIGTERM, signal.SIGINT) or (number == signal.SIGHUP and self._terminal.hung_up()):
            self._stop()
        elif number == signal.SIGHUP:
            self._signal_workers(signal.SIGHUP)

    def _stop(self) -> None:
        self._stops += 1
        if self._stops > 1:
            self._signal_workers(CUT)
            return
        _log.info("stopping: open flows may end by themselves, a second signal cuts them")
        self._listening.close()
        self._kill_at = time.monotonic() + self._kill_after
        self._signal_workers(signal.SIGTERM)

    def _signal_workers(self, number: signal.Signals) -> None:
        for post in self._workers:
            if post.pid:
                os.kill(post.pid, number)  # ours, and not reaped: the id cannot have gone to anybody else

    def _reap(self) -> None:
        now = time.monotonic()
        if now >= self._kill_at:
            self._signal_workers(signal.SIGKILL)
            self._kill_at = now + _LOOK_SECONDS
        for post in self._posts:
            if not post.pid:
                continue
            pid, status = os.waitpid(post.pid, os.WNOHANG)
            if not pid:
                self._end_if_hung(post)
                continue
            post.died(now)
            if self._stops:
                continue
            _log.error("a process died and is replaced", place=post.name, exit=os.waitstatus_to_exitcode(status))
            if not self._told and post in self._workers:
                # At the very start that is no accident: what stops one stops the next.
                self._failed = True
                self._stop()

    def _end_if_hung(self, post: _Post) -> None:
        """A worker whose loop stands still keeps its clients waiting; killed, it is replaced like one that died."""
        if self._stops or post.silent() < _HUNG_SECONDS:
            return
        _log.error("a process does not respond and is killed", place=post.name)
        os.kill(post.pid, signal.SIGKILL)

    def _end_others(self) -> None:
        for post in self._others:
            if post.pid:
                os.kill(post.pid, signal.SIGTERM)
                os.waitpid(post.pid, 0)


def _live(post: _Post, pipes: Pipes) -> None:
    """The whole life of a child. Never returns: the supervisor's stack above is not the child's to unwind."""
    code = 1
    try:
        pipes.forget_signals()
        # A terminal sends these to every process of its group; the supervisor says what they mean for a worker.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        post.work(pipes.childs_ends())
        code = 0
    except Exception as error:  # noqa: BLE001  the last frame of the process: what it does not tell, nobody tells
        _log.error("a process of the proxy failed", place=post.name, reason=f"{type(error).__name__}: {error}")
    finally:
        with suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(code)


def _clean_up(directory: Path, number: int) -> None:
    vacate(directory, number)
    retire_metrics(directory, number)
    clear_first_cells(directory, number)
