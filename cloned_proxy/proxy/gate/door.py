"""Where clients come in: one listening socket, on which no more are accepted than there are places.

Who is one too many waits with the kernel, unanswered and unread, until somebody leaves. Nobody is told to come again.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Final

from cloned_proxy.proxy.transport.descriptors import are_scarce, is_among_the_last
from cloned_proxy.proxy.transport.listener import BACKLOG, Listener
from cloned_proxy.proxy.tunnel.connection import ClientConnection
from cloned_proxy.telemetry.wait_metrics import WaitMetrics, WaitReason

_AT_ONCE: Final = 8
"""Connections that are accepted at once; then the open ones have their turn."""
_FULL_SECONDS: Final = 0.02
"""Seconds between two looks for a place, which another process may have given back."""
_EXHAUSTED_SECONDS: Final = 0.1
"""Seconds until connections are accepted again after the process ran out of descriptors."""
_OUT_OF_MEANS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Door:
    """Accepts the clients of one listener, on the loop of the gate, from `open` to `close`."""

    def __init__(
        self,
        listener: Listener,
        *,
        enter: Callable[[Listener], ClientConnection | None],
        leave: Callable[[ClientConnection], None],
        take: Callable[[ClientConnection, socket.socket], None],
        waits: WaitMetrics,
    ) -> None:
        """`enter`, `leave`: as of `Gate`. `take` gets a place and the client to whom it belongs from now on."""
        self.listener: Final = listener
        self._enter: Final = enter
        self._leave: Final = leave
        self._take: Final = take
        self._loop: Final = asyncio.get_running_loop()
        self._waits: Final = waits
        self._again: asyncio.TimerHandle | None = None
        self._full = False
        self._scarce = False
        """The last client that was accepted got one of the last descriptors."""
        self._waits_for: WaitReason | None = None

    def open(self) -> None:
        """Accepts; the listener's socket belongs to the door."""
        self.listener.socket.setblocking(False)
        self.listener.socket.listen(BACKLOG)  # some are bound early, and refuse until they are opened
        self._resume()

    def close(self) -> None:
        """Stops accepting, and closes the socket."""
        if self._again is not None:
            self._again.cancel()
        self._full = False
        self._nobody_waits()
        self._loop.remove_reader(self.listener.socket.fileno())
        self.listener.socket.close()

    def look(self) -> None:
        """Somebody has left: who waited for a place may have it."""
        if self._full and self._again is not None:
            self._again.cancel()
            self._resume()

    def _resume(self) -> None:
        self._again, self._full = None, False
        self._nobody_waits()
        self._loop.add_reader(self.listener.socket.fileno(), self._accept)

    def _accept(self) -> None:
        if self._scarce and are_scarce(self.listener.socket.fileno()):
            self._pause(_EXHAUSTED_SECONDS, WaitReason.OPEN_FILES)
            return
        for _ in range(_AT_ONCE):
            connection = self._enter(self.listener)
            if connection is None:
                self._full = True
                self._pause(_FULL_SECONDS, WaitReason.MAX_CONNECTIONS)
                return
            try:
                sock, _ = self.listener.socket.accept()
            except OSError as error:
                self._leave(connection)
                if error.errno in _OUT_OF_MEANS:
                    self._pause(_EXHAUSTED_SECONDS, WaitReason.OPEN_FILES)
                return
            sock.setblocking(False)
            self._scarce = is_among_the_last(sock.fileno())
            self._take(connection, sock)
            if self._scarce:  # those who have come in need more of them
                return

    def _nobody_waits(self) -> None:
        if self._waits_for is not None:
            self._waits.end(self._waits_for)
            self._waits_for = None

    def _pause(self, seconds: float, reason: WaitReason) -> None:
        self._waits_for = reason
        self._waits.begin(reason)
        self._loop.remove_reader(self.listener.socket.fileno())
        self._again = self._loop.call_later(seconds, self._resume)
