"""Several workers on one listening socket, and a parent that does nothing but keep them alive.

The parent opens the sockets, forks, waits, and forks again. It has no thread, no event loop and no connection, for two
reasons: there is nothing in it that traffic could break, and a fork of it is safe at any time.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.terms.host_port import host_port
from cloned_proxy.proxy.grants.cells import clear_first_cells
from cloned_proxy.proxy.grants.workers import (
    Worker,
    forget_report,
    make_directory,
    remove_directory,
    silent_seconds,
)
from cloned_proxy.proxy.serving.child import ChildProcess
from cloned_proxy.proxy.serving.options import ServeOptions, find_policy
from cloned_proxy.proxy.serving.pipes import Pipes
from cloned_proxy.proxy.serving.terminal import Terminal
from cloned_proxy.proxy.serving.worker import CUT, Ties, expose, serve
from cloned_proxy.proxy.transport.listener import bind_tcp
from cloned_proxy.store.audit.audit_log import AuditLog
from cloned_proxy.store.policyfile.policy_file import load_policy
from cloned_proxy.store.workspaces.keys import load_or_create_key
from cloned_proxy.store.workspaces.workspace import Workspace
from cloned_proxy.telemetry.shared import retire_metrics

_log = structlog.get_logger(__name__)

_OVERTIME_SECONDS: Final = 5.0
"""After the shutdown delay, the drain time and this, a child that has not stopped is killed."""
_LOOK_SECONDS: Final = 1.0


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
                if self._stops and not any(child.pid for child in self._workers):
                    self._end_others()
                    _log.info("stopped")
                    return not self._failed

    @property
    def _children(self) -> list[ChildProcess]:
        return [*self._workers, *self._others]

    def _worker(
        self,
        number: int,
        of: int,
        workspace: Workspace,
        options: ServeOptions,
        loop_factory: Callable[[], asyncio.AbstractEventLoop],
    ) -> ChildProcess:
        metrics: tuple[str, int] | None = self._metrics.getsockname()[:2] if self._metrics is not None else None
        worker = Worker(number, of, self._directory, self._listening, metrics)

        def work(ties: Ties) -> None:
            for listening in self._not_for_workers():
                listening.close()
            serve(worker, ties, workspace, options, loop_factory)

        return ChildProcess(
            f"worker {number}",
            work,
            partial(_clean_up, self._directory, number),
            partial(silent_seconds, self._directory, number),
        )

    def _exposition(self, listening: socket.socket, workers: int) -> ChildProcess:
        def work(ties: Ties) -> None:
            self._listening.close()
            if self._companion is not None:
                self._companion.listening.close()
            expose(listening, self._directory, workers, ties)

        return ChildProcess("exposition", work, lambda: None)

    def _beside(self, companion: Companion) -> ChildProcess:
        def work(ties: Ties) -> None:
            self._listening.close()
            if self._metrics is not None:
                self._metrics.close()
            companion.work(self.address, ties)

        return ChildProcess(companion.name, work, lambda: None)

    def _not_for_workers(self) -> list[socket.socket]:
        companion = [self._companion.listening] if self._companion is not None else []
        return [*companion, *([self._metrics] if self._metrics is not None else [])]

    def _fill(self, pipes: Pipes) -> None:
        now = time.monotonic()
        for child in self._children:
            if not child.pid and child.due <= now:
                child.start(pipes)

    def _patience(self) -> float:
        """Seconds until something is due, if no signal comes first."""
        now = time.monotonic()
        due = [child.due - now for child in self._children if not child.pid and not self._stops]
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
        for child in self._workers:
            if child.pid:
                os.kill(child.pid, number)  # ours, and not reaped: the id cannot have gone to anybody else

    def _reap(self) -> None:
        now = time.monotonic()
        if now >= self._kill_at:
            self._signal_workers(signal.SIGKILL)
            self._kill_at = now + _LOOK_SECONDS
        for child in self._children:
            if not child.pid:
                continue
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if not pid:
                if not self._stops:
                    child.end_if_hung()
                continue
            child.died(now)
            if self._stops:
                continue
            _log.error("a process died and is replaced", place=child.name, exit=os.waitstatus_to_exitcode(status))
            if not self._told and child in self._workers:
                # At the very start that is no accident: what stops one stops the next.
                self._failed = True
                self._stop()

    def _end_others(self) -> None:
        for child in self._others:
            if child.pid:
                os.kill(child.pid, signal.SIGTERM)
                os.waitpid(child.pid, 0)


def _clean_up(directory: Path, number: int) -> None:
    forget_report(directory, number)
    retire_metrics(directory, number)
    clear_first_cells(directory, number)
