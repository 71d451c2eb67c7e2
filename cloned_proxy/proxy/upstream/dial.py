"""Connects to one of a decision's checked addresses: happy eyeballs (RFC 8305), never a name."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from itertools import chain, zip_longest
from typing import ClassVar, Final, Protocol

from cloned_proxy.policy.terms.rule import Address

ATTEMPT_DELAY: Final = 0.25
"""Seconds between two attempts (RFC 8305, section 5)."""

_OUT_OF_RESOURCES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_UNDER_WAY: Final = frozenset({errno.EINPROGRESS, errno.EALREADY})
_CONNECTED: Final = frozenset({0, errno.EISCONN})
_STREAM: Final = socket.SOCK_STREAM | getattr(socket, "SOCK_NONBLOCK", 0)
"""Non-blocking from birth where the system can do that: one call less."""


class DialError(Exception):
    """No address answered. `timed_out` tells 504 from 502; the message names no address."""

    phase: ClassVar[str] = "connect"
    status: int | None = None
    """What a proxy in front answered; None where none did."""

    def __init__(self, message: str, *, timed_out: bool = False) -> None:
        super().__init__(message)
        self.timed_out = timed_out


class ExhaustedError(Exception):
    """No file descriptor is left in this process: our own fault (503), not the upstream's."""


type DialOutcome = socket.socket | DialError | ExhaustedError


class DialAttempt(Protocol):
    """One connection in the making. It was given an `on_end`, which is called once, perhaps within `start`."""

    def start(self) -> None: ...

    def cancel(self) -> None:
        """Drops it; `on_end` will not be called."""


class Dial:
    """One connection to whichever of the addresses answers first. Callbacks, not tasks: each tunnel makes one of these.

    `on_end` is called once, perhaps within `start`, with a connected, non-blocking socket or with what went wrong.
    """

    __slots__ = (
        "_attempts",
        "_deadline",
        "_failure",
        "_loop",
        "_next_timer",
        "_on_end",
        "_port",
        "_seconds",
        "_waiting",
    )

    def __init__(
        self, addresses: Sequence[Address], port: int, *, seconds: float, on_end: Callable[[DialOutcome], None]
    ) -> None:
        """`seconds` bound all attempts together."""
        self._waiting = deque(addresses) if len(addresses) == 1 else interleaved(addresses)
        self._port = port
        self._seconds = seconds
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._attempts: list[socket.socket] = []
        """Under way; each is watched by the loop."""
        self._failure: OSError | None = None
        self._next_timer: asyncio.TimerHandle | None = None
        self._deadline: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._try_next()
        if self._attempts:
            self._deadline = self._loop.call_later(self._seconds, self._timed_out)

    def cancel(self) -> None:
        """Drops every attempt; `on_end` will not be called."""
        for timer in (self._next_timer, self._deadline):
            if timer is not None:
                timer.cancel()
        self._waiting.clear()
        while self._attempts:
            self._drop(self._attempts[-1]).close()

    def _try_next(self) -> None:
        """Begins attempts until one is under way, has connected, or none is left."""
        self._next_timer = None
        while self._waiting:
            address = self._waiting.popleft()
            try:
                sock, connected = _begin(address, self._port)
            except OSError as error:
                self._failure = error
                continue
            if connected:
                self._end(sock)
                return
            self._attempts.append(sock)
            self._loop.add_writer(sock, self._answered, sock)
            if self._waiting:
                self._next_timer = self._loop.call_later(ATTEMPT_DELAY, self._try_next)
            return
        if not self._attempts:
            self._end(_error_of(self._failure or OSError(errno.ENETUNREACH, "no address to connect to")))

    def _answered(self, sock: socket.socket) -> None:
        """The outcome of one attempt is there."""
        self._drop(sock)
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if not code:
            self._end(sock)
            return
        sock.close()
        self._failure = OSError(code, os.strerror(code))
        if self._next_timer is not None:
            self._next_timer.cancel()
        self._try_next()

    def _timed_out(self) -> None:
        self._end(DialError("the upstream did not answer in time", timed_out=True))

    def _drop(self, sock: socket.socket) -> socket.socket:
        self._loop.remove_writer(sock)
        self._attempts.remove(sock)
        return sock

    def _end(self, outcome: DialOutcome) -> None:
        self.cancel()
        self._on_end(outcome)


async def dial(addresses: Sequence[Address], port: int, *, seconds: float) -> socket.socket:
    """`Dial` for those who wait. Raises as `awaited`."""
    return await awaited(lambda on_end: Dial(addresses, port, seconds=seconds, on_end=on_end))


async def awaited(begin: Callable[[Callable[[DialOutcome], None]], DialAttempt]) -> socket.socket:
    """Starts the attempt that `begin` makes and waits for it.

    Raises DialError, or ExhaustedError when no socket can be made at all.
    """
    ended: asyncio.Future[DialOutcome] = asyncio.get_running_loop().create_future()
    attempt = begin(ended.set_result)
    attempt.start()
    try:
        outcome = await ended
    except BaseException:
        attempt.cancel()
        if ended.done() and not ended.cancelled() and isinstance(connected := ended.result(), socket.socket):
            connected.close()
        raise
    if not isinstance(outcome, socket.socket):
        raise outcome
    return outcome


async def join(sock: socket.socket, protocol: Callable[[], asyncio.Protocol]) -> None:
    """Gives a connected socket to the loop, which owns it from then on. Not to be cancelled half-way.

    uvloop takes the descriptor first and the Python object a turn later. A transport that was closed in that turn has
    closed the descriptor, and the forgotten object would close it once more: by then it may be the socket of another
    flow, and libuv aborts the process when it finds a socket gone that it watches.
    """
    transport: object
    transport, _ = await asyncio.get_running_loop().create_connection(protocol, sock=sock)
    if not isinstance(transport, asyncio.Transport):  # uvloop's; one of asyncio's own goes on with the object itself
        sock.detach()


def interleaved(addresses: Sequence[Address]) -> deque[Address]:
    """RFC 8305, section 4: alternating families, starting with the one that the system prefers."""
    preferred = addresses[0].version
    first = [address for address in addresses if address.version == preferred]
    second = [address for address in addresses if address.version != preferred]
    pairs = chain.from_iterable(zip_longest(first, second))
    return deque(address for address in pairs if address is not None)


def _begin(address: Address, port: int) -> tuple[socket.socket, bool]:
    """A socket that connects, and whether it has connected already. Raises OSError."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6  # noqa: PLR2004  the IP version
    sock = socket.socket(family, _STREAM)
    try:
        if sock.getblocking():
            sock.setblocking(False)
        # `loop.sock_connect` is not used: uvloop's asks a thread to resolve even a literal, and so doubles the price.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        place = (str(address), port)
        code = sock.connect_ex(place)
        if code == errno.EINPROGRESS:
            # Asked a second time it tells whether it has connected: an upstream of this machine has by now.
            code = sock.connect_ex(place)
        if code not in _CONNECTED and code not in _UNDER_WAY:
            raise OSError(code, os.strerror(code))  # noqa: TRY301  the socket is closed below, as for any failure
    except BaseException:
        sock.close()
        raise
    return sock, code in _CONNECTED


def _error_of(error: OSError) -> DialError | ExhaustedError:
    if error.errno in _OUT_OF_RESOURCES:
        return ExhaustedError("no file descriptor is left")
    # The system's own message would name the address.
    failure = DialError("the upstream cannot be reached", timed_out=error.errno == errno.ETIMEDOUT)
    failure.__cause__ = error
    return failure
