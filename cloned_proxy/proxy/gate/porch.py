"""Before the gate: a listener behind a load balancer, where a PROXY protocol header is taken off each connection."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
import time
from collections.abc import Callable
from typing import Final

import structlog

from cloned_proxy.proxy.transport.listener import Listener, plain_address
from cloned_proxy.proxy.transport.relay import reset_socket
from cloned_proxy.proxy.wire.proxy_protocol import MAX_BYTES, HeaderError, header_length

_log = structlog.get_logger(__name__)

_ACCEPT_AT_ONCE: Final = 64
_PAUSE_SECONDS: Final = 0.1
"""Until connections are accepted again after the process ran out of descriptors."""
_SILENT_SECONDS: Final = 60.0
"""Between two log lines about refused headers: a load balancer that is set up wrongly sends thousands."""
_OUT_OF_MEANS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Porch:
    """Of one listener, on the loop of its gate, from `open` to `close`.

    What belongs to the header is all that is read here; what comes behind it stays in the socket for the gate.
    """

    def __init__(
        self,
        listener: Listener,
        adopt: Callable[[socket.socket, Listener], None],
        *,
        seconds: float,
        most: int,
    ) -> None:
        """`adopt` takes a connection that begins with what its client says. A header has `seconds` to come, in all.

        `most`: so many may be waited for at once; who comes then is closed.
        """
        self._listener: Final = listener
        self._adopt: Final = adopt
        self._seconds: Final = seconds
        self._most: Final = most
        self._loop: Final = asyncio.get_running_loop()
        self._waiting: Final[dict[socket.socket, tuple[bytearray, asyncio.TimerHandle]]] = {}
        self._again: asyncio.TimerHandle | None = None
        self._told_at = float("-inf")

    def open(self) -> None:
        """Accepts; the listener's socket belongs to the porch."""
        self._loop.add_reader(self._listener.socket.fileno(), self._accept)

    def close(self) -> None:
        """Stops accepting, and closes whoever has not come past the header."""
        if self._again is not None:
            self._again.cancel()
        self._loop.remove_reader(self._listener.socket.fileno())
        self._listener.socket.close()
        for sock in tuple(self._waiting):
            self._forget(sock)
            reset_socket(sock)

    def _accept(self) -> None:
        for _ in range(_ACCEPT_AT_ONCE):
            try:
                sock, address = self._listener.socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _OUT_OF_MEANS:
                    raise
                self._loop.remove_reader(self._listener.socket.fileno())
                self._again = self._loop.call_later(_PAUSE_SECONDS, self.open)
                return
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if not self._is_named(address[0]):
                self._adopt(sock, self._listener)
            elif len(self._waiting) >= self._most:
                reset_socket(sock)
            else:
                timer = self._loop.call_later(self._seconds, self._refuse, sock, address[0], "none came in time")
                self._waiting[sock] = bytearray(), timer
                self._loop.add_reader(sock.fileno(), self._read, sock, address[0])

    def _is_named(self, address: str) -> bool:
        peer = plain_address(ipaddress.ip_address(address))
        return any(peer in network for network in self._listener.header_from)

    def _read(self, sock: socket.socket, peer: str) -> None:
        begun = self._waiting[sock][0]
        try:
            seen = sock.recv(MAX_BYTES, socket.MSG_PEEK)
            if not seen:  # as a health check does that only connects
                self._forget(sock)
                sock.close()
                return
            length = header_length(bytes(begun + seen))
            begun += sock.recv(len(seen) if length is None else length - len(begun))
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._forget(sock)
            sock.close()
            return
        except HeaderError as error:
            self._refuse(sock, peer, str(error))
            return
        if length is not None:
            self._forget(sock)
            self._adopt(sock, self._listener)

    def _refuse(self, sock: socket.socket, peer: str, reason: str) -> None:
        self._forget(sock)
        reset_socket(sock)
        if time.monotonic() - self._told_at >= _SILENT_SECONDS:
            self._told_at = time.monotonic()
            _log.warning(
                "a connection of listen.proxy_protocol_from is refused for its PROXY protocol header",
                peer=peer,
                reason=reason,
            )

    def _forget(self, sock: socket.socket) -> None:
        self._waiting.pop(sock)[1].cancel()
        self._loop.remove_reader(sock.fileno())
