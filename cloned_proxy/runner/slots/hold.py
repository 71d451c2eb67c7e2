"""A command's hold on the proxy that serves its workspace, for as long as the command needs one.

A borrowed proxy ends with the last hold, whoever started it. When it dies before that, one of those that held it starts
the next, and the runs find that one by themselves (`link.ProxyLink`).
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloned_proxy.local.slot_protocol import encode
from cloned_proxy.runner.docker.engine_address import engine_host
from cloned_proxy.runner.slots.link import ask, connect
from cloned_proxy.runner.slots.owner import owner_id
from cloned_proxy.runner.values.errors import ProxyLinkError
from cloned_proxy.telemetry.later import LaterLogger

_log = LaterLogger(__name__)

_LEAVE_SECONDS: Final = 15.0
_RETRY_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class HeldConnection:
    """A connection that counts as long as it is open."""

    sock: socket.socket
    borrowed: bool
    """Whether the proxy ends with the last one who holds it."""


def take_hold(workspace: Path) -> HeldConnection:
    """Holds the proxy that serves. Raises ProxyLinkError when none does."""
    sock = connect(workspace)
    try:
        reply = ask(sock, encode(op="hold", owner=owner_id(), engine=engine_host()), workspace)
    except ProxyLinkError:
        sock.close()
        raise
    return HeldConnection(sock, bool(reply.get("standby")))


class Hold:
    """Counts until `close`; the kernel ends it when this process is killed."""

    def __init__(self, workspace: Path, start: Callable[[], HeldConnection]) -> None:
        """`start` brings a proxy about where none serves. Raises ProxyLinkError."""
        self._workspace = workspace
        self._start = start
        try:
            self._held: HeldConnection | None = take_hold(workspace)
        except ProxyLinkError:
            self._held = start()
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._watcher = threading.Thread(target=self._watch, args=(self._held,), name="proxy-hold", daemon=True)
        self._watcher.start()

    def close(self, *, clean: bool) -> None:
        """Returns when this hold no longer counts, and a proxy that ends with it has ended.

        `clean`: this process has removed all that it had made. Otherwise the proxy's caretaker looks for it.
        """
        self._wake_writer.close()
        self._watcher.join()
        if self._held is not None:
            with self._held.sock as sock, contextlib.suppress(OSError):
                sock.settimeout(_LEAVE_SECONDS)
                if clean:
                    sock.send(encode(op="leave"))
                else:
                    sock.shutdown(socket.SHUT_WR)
                sock.recv(1)
        self._wake_reader.close()

    def _watch(self, held: HeldConnection) -> None:
        """Replaces a proxy that died."""
        while not self._ending(held.sock, seconds=None):
            held.sock.close()
            self._held = None
            again = self._again(borrowed=held.borrowed)
            if again is None:
                return
            self._held = held = again

    def _again(self, *, borrowed: bool) -> HeldConnection | None:
        """The next proxy. A `serve` that ended is for its user to start again. None when this hold ends meanwhile."""
        told = False
        while not self._ending(seconds=0 if borrowed and not told else _RETRY_SECONDS):
            try:
                return take_hold(self._workspace) if not borrowed else self._start()
            except ProxyLinkError as error:
                if borrowed and not told:
                    _log.warning("the borrowed proxy ended, and the next one does not start", reason=str(error))
                told = True
        return None

    def _ending(self, *others: socket.socket, seconds: float | None) -> bool:
        """Waits until one of the others is at its end or the time is over; whether this hold ends."""
        readable, _, _ = select.select([self._wake_reader, *others], [], [], seconds)
        return self._wake_reader in readable
