"""How a connection is cut: with RST, so that its peer does not mistake the cut for the end of the data."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import Final

_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)  # SO_LINGER: on, zero seconds


def reset(transport: asyncio.WriteTransport) -> None:
    """Closes the transport at once and sends RST; what was written and not sent yet is lost."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        _reset_on_close(sock)
    transport.abort()


def reset_socket(sock: socket.socket) -> None:
    """As `reset`, for a socket that has no transport."""
    _reset_on_close(sock)
    sock.close()


def _reset_on_close(sock: socket.socket) -> None:
    # Already closed (ValueError: the loop has let go of it), or a unix socket of a system without it: then closing is
    # all there is.
    with contextlib.suppress(OSError, ValueError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
