"""Connects to one of a decision's checked addresses: happy eyeballs (RFC 8305), never a name."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections import deque
from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import Final

from cloned_proxy.policy.model import Address

ATTEMPT_DELAY: Final = 0.25
"""Seconds between two attempts (RFC 8305, section 5)."""

_OUT_OF_RESOURCES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class DialError(Exception):
    """No address answered. `timed_out` tells 504 from 502; the message names no address."""

    phase: Final = "connect"

    def __init__(self, message: str, *, timed_out: bool = False) -> None:
        super().__init__(message)
        self.timed_out = timed_out


class ExhaustedError(Exception):
    """No file descriptor is left in this process: our own fault (503), not the upstream's."""


async def dial(addresses: Sequence[Address], port: int, *, seconds: float) -> socket.socket:
    """A connected, non-blocking socket. `seconds` bound all attempts together.

    Raises DialError, or ExhaustedError when no socket can be made at all.
    """
    try:
        async with asyncio.timeout(seconds):
            if len(addresses) == 1:
                return await _connect(addresses[0], port)
            return await _race(_interleaved(addresses), port)
    except TimeoutError as error:
        raise DialError("the upstream did not answer in time", timed_out=True) from error
    except OSError as error:
        if error.errno in _OUT_OF_RESOURCES:
            raise ExhaustedError("no file descriptor is left") from error
        # The loop's own message would name the address.
        raise DialError("the upstream cannot be reached", timed_out=error.errno == errno.ETIMEDOUT) from error


def _interleaved(addresses: Sequence[Address]) -> deque[Address]:
    """RFC 8305, section 4: alternating families, starting with the one that the system prefers."""
    preferred = addresses[0].version
    first = [address for address in addresses if address.version == preferred]
    second = [address for address in addresses if address.version != preferred]
    pairs = chain.from_iterable(zip_longest(first, second))
    return deque(address for address in pairs if address is not None)


async def _race(waiting: deque[Address], port: int) -> socket.socket:
    """The first connection that stands; the others are closed, whatever state they are in."""
    attempts: list[asyncio.Task[socket.socket]] = []
    pending: set[asyncio.Task[socket.socket]] = set()
    winner: asyncio.Task[socket.socket] | None = None
    failure: BaseException | None = None
    try:
        while winner is None and (waiting or pending):
            if waiting:
                attempt = asyncio.ensure_future(_connect(waiting.popleft(), port))
                attempts.append(attempt)
                pending.add(attempt)
            delay = ATTEMPT_DELAY if waiting else None
            done, pending = await asyncio.wait(pending, timeout=delay, return_when=asyncio.FIRST_COMPLETED)
            for attempt in done:
                failure = attempt.exception() or failure
                if attempt.exception() is None:
                    winner = attempt
    finally:
        for attempt in attempts:
            if attempt is not winner:
                _discard(attempt)
    if winner is None:
        raise failure or OSError(errno.ENETUNREACH, "no address to connect to")
    return winner.result()


def _discard(attempt: asyncio.Task[socket.socket]) -> None:
    if not attempt.done():
        attempt.cancel()
    elif not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()


async def _connect(address: Address, port: int) -> socket.socket:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6  # noqa: PLR2004  the IP version
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Not `loop.sock_connect`: uvloop's asks a thread to resolve even a literal, and so doubles the price.
        outcome = sock.connect_ex((str(address), port))
        if outcome == errno.EINPROGRESS:
            await _writable(sock)
            outcome = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if outcome:
            raise OSError(outcome, os.strerror(outcome))  # noqa: TRY301  the socket is closed below, as for any failure
    except BaseException:
        sock.close()
        raise
    return sock


async def _writable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    writable = loop.create_future()
    loop.add_writer(sock, _wake, writable)
    try:
        await writable
    finally:
        loop.remove_writer(sock)


def _wake(writable: asyncio.Future[None]) -> None:
    if not writable.done():
        writable.set_result(None)
