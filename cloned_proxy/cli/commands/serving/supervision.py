"""What a unit of `Type=notify` waits for: one datagram a state, by sd_notify(3). Without systemd nothing happens."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Final

import structlog

_log = structlog.get_logger(__name__)

READY: Final = "READY=1"
STOPPING: Final = "STOPPING=1"
_ALIVE: Final = "WATCHDOG=1"


def notify(state: str) -> None:
    """Tells the supervisor; a supervisor that cannot be told is one line in the log, never a reason to stop."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # the abstract namespace of Linux
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.setblocking(False)  # a full queue must not hold up the event loop
            channel.connect(address)
            channel.send(state.encode())
    except OSError as error:
        _log.warning("the supervisor could not be told", state=state, reason=str(error))


async def tell_watchdog() -> None:
    """Says twice in each `WatchdogSec` that the event loop turns; ends at once where no watchdog was asked for."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    if not microseconds.isdecimal() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return
    while True:
        notify(_ALIVE)
        await asyncio.sleep(int(microseconds) / 2_000_000)
