"""Bulk bytes from one socket to another inside the kernel: `splice(2)` through pooled pipes.

A tunnel whose TLS stays closed has nothing that Python must look at, so a busy one is moved off its transports and
onto this pump: no copy to user space, no `bytes` object, no call into the event loop per segment. Linux only; where
`os.splice` is missing the relay simply keeps using its transports.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import fcntl
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

AVAILABLE: Final = hasattr(os, "splice")

PIPE_BYTES: Final = 1 << 20
"""What a pipe holds: the ceiling for unprivileged users (`/proc/sys/fs/pipe-max-size`), and this pump's only buffer."""

_FAIR_SHARE: Final = 4 << 20
"""Bytes that one direction may move in one turn of the event loop, before the other flows get theirs."""

_POOLED_PIPES: Final = 64


class PumpEnd(enum.Enum):
    """Why a pump stopped."""

    EOF = enum.auto()
    """The source has sent FIN, and so has the pump to the sink."""
    SOURCE_FAILED = enum.auto()
    SINK_FAILED = enum.auto()
    NO_PIPE = enum.auto()
    """No descriptor was left for a pipe. Nothing is lost: the pump holds no byte, and another reader may go on."""


@dataclass(frozen=True, slots=True)
class KernelPipe:
    read_end: int
    write_end: int

    def close(self) -> None:
        os.close(self.read_end)
        os.close(self.write_end)


class PipePool:
    """Empty pipes for reuse: making one costs three system calls, and an idle tunnel needs none at all."""

    def __init__(self, keep: int = _POOLED_PIPES) -> None:
        self._keep = keep
        self._free: list[KernelPipe] = []

    def take(self) -> KernelPipe:
        """An empty pipe. Raises OSError when no descriptor is left."""
        if self._free:
            return self._free.pop()
        pipe = KernelPipe(*os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC))
        with contextlib.suppress(OSError):  # over the user's pipe quota (pipe(7)): the default 64 KiB work too
            fcntl.fcntl(pipe.write_end, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        return pipe

    def give_back(self, pipe: KernelPipe, *, empty: bool) -> None:
        """Only an empty pipe is kept: one flow's bytes must never surface in another."""
        if empty and len(self._free) < self._keep:
            self._free.append(pipe)
        else:
            pipe.close()

    def close(self) -> None:
        while self._free:
            self._free.pop().close()


class Pump:
    """Moves bytes from `source` to `sink` until it cannot, then calls `on_end` once.

    Both sockets are non-blocking, connected, and watched by nobody else: no transport may read or write them
    meanwhile. At end of file the sink is shut down for writing, so a half-closed flow goes on in the other direction.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        source: socket.socket,
        sink: socket.socket,
        pipes: PipePool,
        *,
        on_bytes: Callable[[int], None],
        on_end: Callable[[PumpEnd], None],
    ) -> None:
        self._loop = loop
        self._source = source
        self._sink = sink
        self._pipes = pipes
        self._on_bytes = on_bytes
        self._on_end = on_end
        self._pipe: KernelPipe | None = None
        self._held = 0
        """Bytes in the pipe: read from the source, not yet taken by the sink."""
        self._waiting_for: str = ""

    def start(self) -> None:
        self._wait_for("source")

    def stop(self) -> None:
        """Stops without a word to `on_end`; what is held is lost. Harmless after the end."""
        self._wait_for("")
        if self._pipe is not None:
            self._pipes.give_back(self._pipe, empty=self._held == 0)
            self._pipe = None
            self._held = 0

    @property
    def resting(self) -> bool:
        """Whether it waits for the source with nothing in hand."""
        return self._pipe is None

    def _run(self) -> None:
        if (end := self._move()) is not None:
            self._end(end)

    def _move(self) -> PumpEnd | None:
        """Moves up to a fair share; None when there may be more to do later."""
        moved = 0
        while moved < _FAIR_SHARE:
            if self._held == 0:
                taken = self._fill()
                if isinstance(taken, PumpEnd):
                    return taken
                if taken is None:
                    self._rest()
                    return None
                moved += taken
            drained = self._drain()
            if isinstance(drained, PumpEnd):
                return drained
            if not drained:
                self._wait_for("sink")
                return None
        self._wait_for("source")
        return None

    def _fill(self) -> int | PumpEnd | None:
        """Bytes taken from the source into the pipe, None when there are none now."""
        if self._pipe is None:
            try:
                self._pipe = self._pipes.take()
            except OSError:
                return PumpEnd.NO_PIPE
        try:
            taken = os.splice(self._source.fileno(), self._pipe.write_end, PIPE_BYTES, flags=_FLAGS)
        except BlockingIOError:
            return None
        except OSError:
            return PumpEnd.SOURCE_FAILED
        self._held += taken
        return taken or PumpEnd.EOF

    def _drain(self) -> bool | PumpEnd:
        """Bytes from the pipe into the sink; False when the sink takes no more for now."""
        while self._held and self._pipe is not None:
            try:
                given = os.splice(self._pipe.read_end, self._sink.fileno(), self._held, flags=_FLAGS)
            except BlockingIOError:
                return False
            except OSError:
                return PumpEnd.SINK_FAILED
            if given == 0:
                return PumpEnd.SINK_FAILED
            self._held -= given
            self._on_bytes(given)
        return True

    def _rest(self) -> None:
        """Nothing to do until the source has more: an idle flow holds no pipe."""
        if self._pipe is not None:
            self._pipes.give_back(self._pipe, empty=True)
            self._pipe = None
        self._wait_for("source")

    def _end(self, end: PumpEnd) -> None:
        self.stop()
        if end is PumpEnd.EOF:
            try:
                self._sink.shutdown(socket.SHUT_WR)
            except OSError:
                end = PumpEnd.SINK_FAILED
        self._on_end(end)

    def _wait_for(self, side: str) -> None:
        if side == self._waiting_for:
            return
        if self._waiting_for == "source":
            self._loop.remove_reader(self._source)
        elif self._waiting_for == "sink":
            self._loop.remove_writer(self._sink)
        self._waiting_for = side
        if side == "source":
            self._loop.add_reader(self._source, self._run)
        elif side == "sink":
            self._loop.add_writer(self._sink, self._run)


_FLAGS: Final = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK if AVAILABLE else 0
