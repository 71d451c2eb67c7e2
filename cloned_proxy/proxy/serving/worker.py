"""What the children of the supervisor do: serve on the inherited socket, or tell the metrics of all."""

from __future__ import annotations

import asyncio
import os
import select
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from typing import Final

import structlog

from cloned_proxy.proxy.grants.workers import Worker, problems_of, remove_directory
from cloned_proxy.proxy.serving.options import ServeOptions
from cloned_proxy.proxy.serving.server import Server
from cloned_proxy.store.workspaces.workspace import Workspace
from cloned_proxy.telemetry.exposition import Exposition
from cloned_proxy.telemetry.shared import share_metrics, shared_registry

_log = structlog.get_logger(__name__)

_REPORT_SECONDS: Final = 1.0

CUT: Final = signal.SIGUSR1
"""Ends a drain at once. A signal of its own, since a service manager and the supervisor may both send a SIGTERM."""


@dataclass(frozen=True, slots=True)
class Ties:
    """What ties a child to its supervisor."""

    lifeline: int
    """The reading end of a pipe that only the supervisor holds open: it ends when the supervisor does."""
    ready: int
    """The writing end of a pipe: one byte says that a worker serves."""
    signals: frozenset[signal.Signals]
    """Blocked since before the fork, so that none is lost; whoever has its handlers in place lets them through."""

    def let_signals_through(self) -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self.signals)


def serve(
    worker: Worker,
    ties: Ties,
    workspace: Workspace,
    options: ServeOptions,
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """Serves until SIGTERM or the supervisor's end, and lets open flows finish. Raises what keeps it from starting."""
    share_metrics(worker.directory, worker.number)
    structlog.contextvars.bind_contextvars(worker=worker.number)
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(_serve(worker, ties, Server(workspace, options, worker=worker)))


def expose(listening: socket, directory: Path, workers: int, ties: Ties) -> None:
    """Serves `/metrics`, `/healthz` and `/readyz` for all workers until SIGTERM or the supervisor's end."""
    exposition = Exposition(listening, shared_registry(directory), lambda: problems_of(directory, workers))
    ties.let_signals_through()
    # Waited for, not read: the workers share the pipe's flags, and their loops have made it non-blocking.
    select.select([ties.lifeline], [], [])
    exposition.close()


async def _serve(worker: Worker, ties: Ties, server: Server) -> None:
    loop = asyncio.get_running_loop()
    asked_to_stop = asyncio.Event()

    def cut() -> None:
        asked_to_stop.set()
        server.cut()

    orphan = False

    def orphaned() -> None:
        nonlocal orphan
        orphan = True
        loop.remove_reader(ties.lifeline)
        _log.error("the supervisor is gone: this worker stops")
        asked_to_stop.set()

    await server.start()
    loop.add_signal_handler(signal.SIGTERM, asked_to_stop.set)
    loop.add_signal_handler(CUT, cut)
    loop.add_signal_handler(signal.SIGHUP, server.reload_soon)
    loop.add_reader(ties.lifeline, orphaned)
    ties.let_signals_through()
    worker.report(server.problems())
    reporting = asyncio.create_task(_report(worker, server))
    os.write(ties.ready, bytes((worker.number,)))
    await asked_to_stop.wait()
    reporting.cancel()
    stopping = asyncio.create_task(server.stop())
    reporting = asyncio.create_task(_report(worker, server))
    await stopping
    reporting.cancel()
    if orphan:  # nobody else is left to do it; siblings that still drain go on with what they have mapped
        remove_directory(worker.directory)


async def _report(worker: Worker, server: Server) -> None:
    while True:
        try:
            worker.report(server.problems())
        except OSError as error:
            _log.warning("this worker cannot report how it is", reason=str(error))
        await asyncio.sleep(_REPORT_SECONDS)
