"""The control process: `serve` starts it with a listening socket, and it ends with `serve`.

It holds no key, no connection of a tool and no part of the proxy: whatever happens in here, traffic goes on.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import socket
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread

from cloned_proxy.control.app import make_app
from cloned_proxy.control.endpoints import ALL
from cloned_proxy.control.feed import Feed
from cloned_proxy.control.guard import authorities_of
from cloned_proxy.control.http import serve
from cloned_proxy.control.record import Record
from cloned_proxy.control.services import ControlServices
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.workspaces.devices import Devices
from cloned_proxy.store.workspaces.workspace import Workspace
from cloned_proxy.telemetry.log import configure_logging

_THREADS: Final = 16
"""Requests that read files or the database at one time."""


def main() -> None:
    """Reads what `control.process.command` wrote."""
    parser = argparse.ArgumentParser(prog="python -m cloned_proxy.control")
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--lifeline", type=int, required=True)
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--policy", type=Path)
    parser.add_argument("--proxy", required=True)
    parser.add_argument("--log-format", choices=("console", "json"), default="console")
    given = parser.parse_args()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a terminal sends it to everybody; `serve` alone decides
    configure_logging(given.log_format)
    logging.getLogger().setLevel(logging.WARNING)
    # The application tells of its own faults; the rest is what any client can cause, line by line.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    listening = socket.socket(fileno=given.fd)
    listening.setblocking(False)
    asyncio.run(_serve(listening, given))


async def _serve(listening: socket.socket, given: argparse.Namespace) -> None:
    anyio.to_thread.current_default_thread_limiter().total_tokens = _THREADS
    services = make_services(listening, given)
    warming = asyncio.create_task(asyncio.to_thread(_warm, services))
    await serve(make_app(services, ALL), services.feed, listening, given.lifeline)
    warming.cancel()


def _warm(services: ControlServices) -> None:
    """Looks through the log once, before anybody waits for that."""
    with contextlib.suppress(StoreError):
        services.record.newest("probe")
        services.record.by_hour(services.clock())


def make_services(listening: socket.socket, given: argparse.Namespace) -> ControlServices:
    """Everything that the endpoints work with, for one listening socket."""
    workspace = Workspace(given.workspace)
    host, port = listening.getsockname()[:2]
    return ControlServices(
        workspace=workspace,
        policy_file=given.policy,
        authorities=authorities_of(host, port),
        cookie=f"cloned_control_{port}",
        devices=Devices(workspace.state_db),
        record=Record(workspace.state_db),
        feed=Feed(workspace.state_db),
        proxy=given.proxy,
    )


if __name__ == "__main__":
    main()
