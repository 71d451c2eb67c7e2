"""Before the gate: a listener behind a load balancer, where a PROXY protocol header is taken off each connection."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from collections.abc import Callable
from typing import Final

import structlog

from cloned_proxy.proxy.gate.door import Door
from cloned_proxy.proxy.transport.listener import Listener, plain_address
from cloned_proxy.proxy.transport.reset import reset_socket
from cloned_proxy.proxy.tunnel.connection import ClientConnection
from cloned_proxy.proxy.wire.proxy_protocol import MAX_BYTES, HeaderError, header_length, source_of
from cloned_proxy.telemetry.metrics import Metrics

_log = structlog.get_logger(__name__)

_SILENT_SECONDS: Final = 60.0
"""Seconds between two log lines about refused headers: a load balancer that is set up wrongly sends thousands."""


class Porch:
    """Accepts the clients of one listener, and reads the header of each, from `open` to `close`.

    What belongs to the header is all that is read here; what comes behind it stays in the socket for the gate.
    """

    def __init__(
        self,
        listener: Listener,
        *,
        enter: Callable[[Listener], ClientConnection | None],
        leave: Callable[[ClientConnection], None],
        take: Callable[[ClientConnection, socket.socket], None],
        metrics: Metrics,
        seconds: float,
    ) -> None:
        """As `Door`; what `take` gets begins with what the client says. A header has `seconds` to come, in all."""
        self._listener: Final = listener
        self._leave: Final = leave
        self._take: Final = take
        self._metrics: Final = metrics
        self._seconds: Final = seconds
        self._loop: Final = asyncio.get_running_loop()
        self._door: Final = Door(listener, enter=enter, leave=leave, take=self._accepted, waits=metrics.waits)
        self._waiting: Final[dict[socket.socket, tuple[ClientConnection, bytearray, asyncio.TimerHandle]]] = {}
        self._told_at = float("-inf")

    def open(self) -> None:
        """Accepts; the listener's socket belongs to the porch."""
        self._door.open()

    def look(self) -> None:
        """As of `Door`."""
        self._door.look()

    def let_go(self, seconds: float) -> None:
        """Closes whoever has had so long for the header and has not sent it: others wait for a place."""
        latest = self._loop.time() - seconds
        for sock, (_, _, timer) in tuple(self._waiting.items()):
            if timer.when() - self._seconds <= latest:
                self._close(sock)

    def close(self) -> None:
        """Stops accepting, and closes whoever has not come past the header."""
        self._door.close()
        for sock in tuple(self._waiting):
            self._leave(self._forget(sock))
            reset_socket(sock)

    def _accepted(self, connection: ClientConnection, sock: socket.socket) -> None:
        try:
            peer = sock.getpeername()[0]
        except OSError:  # it has gone already
            self._leave(connection)
            sock.close()
            return
        if not self._is_named(peer):
            # Nobody speaks for it: it is on record as who it is, so that who goes round the load balancer is seen.
            connection.source_address = str(plain_address(ipaddress.ip_address(peer)))
            self._take(connection, sock)
            return
        timer = self._loop.call_later(self._seconds, self._refuse, sock, peer, "none came in time")
        self._waiting[sock] = connection, bytearray(), timer
        self._loop.add_reader(sock.fileno(), self._read, sock, peer)

    def _is_named(self, address: str) -> bool:
        peer = plain_address(ipaddress.ip_address(address))
        return any(peer in network for network in self._listener.header_from)

    def _read(self, sock: socket.socket, peer: str) -> None:
        begun = self._waiting[sock][1]
        try:
            seen = sock.recv(MAX_BYTES, socket.MSG_PEEK)
            if not seen:  # as a health check does that only connects
                self._close(sock)
                return
            length = header_length(bytes(begun + seen))
            begun += sock.recv(len(seen) if length is None else length - len(begun))
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._close(sock)
            return
        except HeaderError as error:
            self._refuse(sock, peer, str(error))
            return
        if length is not None:
            connection = self._forget(sock)
            connection.source_address = source_of(bytes(begun))
            self._take(connection, sock)

    def _refuse(self, sock: socket.socket, peer: str, reason: str) -> None:
        self._leave(self._forget(sock))
        reset_socket(sock)
        self._metrics.header_refused()
        if time.monotonic() - self._told_at >= _SILENT_SECONDS:
            self._told_at = time.monotonic()
            _log.warning(
                "a connection of listen.proxy_protocol_from is refused for its PROXY protocol header",
                peer=peer,
                reason=reason,
            )

    def _close(self, sock: socket.socket) -> None:
        self._leave(self._forget(sock))
        sock.close()

    def _forget(self, sock: socket.socket) -> ClientConnection:
        connection, _, timer = self._waiting.pop(sock)
        timer.cancel()
        self._loop.remove_reader(sock.fileno())
        return connection
