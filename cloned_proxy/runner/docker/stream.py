"""The standard streams of a container: one socket, both ways, framed by the engine.

Engine API, "Stream format": eight bytes (stream, 0, 0, 0, big-endian length), then the payload. A terminal has one
output, which is sent as it is.
"""

from __future__ import annotations

import contextlib
import enum
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Final

from cloned_proxy.runner.values.errors import EngineError
from cloned_proxy.runner.values.terminal import TerminalSize

_HEADER: Final = struct.Struct(">BxxxL")
_CHUNK: Final = 65_536


class StreamTimeoutError(Exception):
    """The deadline passed while the container was still running."""


class OutputStream(enum.IntEnum):
    STDOUT = 1
    STDERR = 2


class Attached:
    """An attached container. `frames` is for one thread, all else may be another's."""

    def __init__(self, sock: socket.socket, *, resize: Callable[[TerminalSize], None] | None = None) -> None:
        """`resize` changes the size of the container's terminal; None where it has none."""
        self._sock = sock
        self._resize = resize
        self._buffer = bytearray()

    def write(self, data: bytes) -> None:
        """Raises OSError when the container no longer reads."""
        self._sock.sendall(data)

    def end_input(self) -> None:
        """EOF on the container's stdin."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def resize(self, size: TerminalSize) -> None:
        """Gives the container's terminal another size, unless that is unknown. Never raises: the container may end."""
        if self._resize is not None and size.known:
            with contextlib.suppress(EngineError):
                self._resize(size)

    def frames(self, deadline: float | None) -> Iterator[tuple[OutputStream, bytes]]:
        """Pieces of output until the container ends; all of a terminal's is STDOUT. `deadline` is monotonic seconds.

        Raises StreamTimeoutError at the deadline, EngineError when the engine breaks off within a frame.
        """
        if self._resize is not None:
            while piece := self._some(_CHUNK, deadline):
                yield OutputStream.STDOUT, piece
            return
        while header := self._exactly(_HEADER.size, deadline):
            kind, left = _HEADER.unpack(header)
            stream = OutputStream.STDERR if kind == OutputStream.STDERR else OutputStream.STDOUT
            while left:
                piece = self._some(min(left, _CHUNK), deadline)
                if not piece:
                    raise EngineError("the engine broke off the tool's output; is it still running?")
                left -= len(piece)
                yield stream, piece

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._sock.close()

    def _exactly(self, size: int, deadline: float | None) -> bytes:
        """`size` bytes, or fewer only at the end."""
        data = b""
        while len(data) < size and (piece := self._some(size - len(data), deadline)):
            data += piece
        if data and len(data) < size:
            raise EngineError("the engine broke off the tool's output; is it still running?")
        return data

    def _some(self, size: int, deadline: float | None) -> bytes:
        if not self._buffer:
            self._buffer += self._receive(deadline)
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def _receive(self, deadline: float | None) -> bytes:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise StreamTimeoutError
        self._sock.settimeout(left)
        try:
            return self._sock.recv(_CHUNK)
        except TimeoutError as error:
            raise StreamTimeoutError from error
        except ConnectionError:
            return b""  # the engine was killed: `wait` finds out what became of the container
