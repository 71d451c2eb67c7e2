"""Whether a client has all that was written for it: whoever closes its connection before destroys what is on its way.

What our transport holds is only a part of that: the kernel sends what it has as fast as the client takes it.
"""

from __future__ import annotations

import asyncio
import fcntl
import select
import socket
import struct
import sys
import termios
from typing import Final

_HALF_CLOSED: Final[int] = getattr(select, "POLLRDHUP", 0)  # of Linux alone
_INT: Final = struct.Struct("i")
_LAST_ACK: Final = struct.Struct("56xI")
"""`tcpi_last_ack_recv` of `struct tcp_info` (linux/tcp.h), milliseconds."""


def is_settled(transport: asyncio.Transport, quiet_seconds: float = 0.0) -> bool:
    """Whether the client has had everything for so long, and has said nothing that nobody has read.

    The socket itself is asked: an event of it may be on its way through the loop. Nobody keeps count of the time for a
    Unix socket; where the client has read everything, that is all.
    """
    fd = _descriptor(transport)
    if fd < 0 or transport.get_write_buffer_size() or has_more(transport):
        return False
    try:
        return not _number(fd, termios.TIOCOUTQ) and _acknowledged_for(fd) >= quiet_seconds
    except OSError:
        return False


def unsent(transport: asyncio.Transport) -> int:
    """Bytes that were written for the client and that its kernel has not acknowledged; 0 when it is gone.

    Of a transport that is closing, too: it waits for the client to take them.
    """
    sock = transport.get_extra_info("socket")
    try:
        fd = -1 if sock is None else sock.fileno()
        return transport.get_write_buffer_size() + _number(fd, termios.TIOCOUTQ) if fd >= 0 else 0
    except OSError:
        return 0


def has_more(transport: asyncio.Transport) -> bool:
    """Whether the client has sent what nobody has read yet."""
    fd = _descriptor(transport)
    try:
        return fd >= 0 and _number(fd, termios.FIONREAD) > 0
    except OSError:
        return False


def has_left(transport: asyncio.BaseTransport, *, half_closed: bool = True) -> bool:
    """Whether the client has gone, or, with `half_closed`, has ended its side: behind what nobody has read yet, too.

    Who reads comes to the end of the stream only behind all that was sent before it (RFC 9293, section 3.6).
    """
    fd = _descriptor(transport)
    if fd < 0:
        return True
    looking = select.poll()
    looking.register(fd, _HALF_CLOSED if half_closed else 0)  # that it has gone is told without being asked for
    return bool(looking.poll(0))


def _descriptor(transport: asyncio.BaseTransport) -> int:
    sock = transport.get_extra_info("socket")
    return -1 if sock is None or transport.is_closing() else int(sock.fileno())


def _number(fd: int, request: int) -> int:
    return int(_INT.unpack(fcntl.ioctl(fd, request, bytes(_INT.size)))[0])


def _acknowledged_for(fd: int) -> float:
    """Seconds since the client's kernel has last acknowledged anything."""
    if sys.platform != "linux":
        return float("inf")
    with socket.socket(fileno=fd) as sock:
        try:
            told = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_ACK.size)
        except OSError:  # a Unix socket
            return float("inf")
        finally:
            sock.detach()
    return float(_LAST_ACK.unpack(told)[0]) / 1_000
