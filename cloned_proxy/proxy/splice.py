"""Bulk bytes from one socket to another inside the kernel: `splice(2)` through pooled pipes.

A tunnel whose TLS stays closed has nothing that Python must look at, so a busy one is moved off its transports and
onto this pump: no copy to user space, no `bytes` object, no call into the event loop per segment. Linux only; where
`os.splice` is missing the relay simply keeps using its transports.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
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


@dataclass(frozen=True, slots=True)
class Pipe:
    read_end: int
    write_end: int

    def close(self) -> None:
        os.close(self.read_end)
        os.close(self.write_end)


class PipePool:
    """Empty pipes for reuse: making one costs three system calls, and an idle tunnel needs none at all."""

    def __init__(self, keep: int = _POOLED_PIPES) -> None:
        self._keep = keep
        self._free: list[Pipe] = []

    def take(self) -> Pipe:
        """An empty pipe. Raises OSError when no descriptor is left."""
        if self._free:
            return self._free.pop()
        pipe = Pipe(*os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC))
        with contextlib.suppress(OSError):  # over the user's pipe quota (pipe(7)): the default 64 KiB work too
            fcntl.fcntl(pipe.write_end, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        return pipe

    def give_back(self, pipe: Pipe, *, empty: bool) -> None:
        """Only an empty pipe is kept: one flow's bytes must never surface in another."""
        if empty and len(self._free) < self._keep:
            self._free.append(pipe)
        else:
            pipe.close()

    def close(self) -> None:
        while self._free:
            self._free.pop().close()


class Pump:
    """Moves bytes from `source` to `sink` until end of file or an error, then calls `on_end` once.

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
        on_end: Callable[[OSError | None], None],
    ) -> None:
        self._loop = loop
        self._source = source
        self._sink = sink
        self._pipes = pipes
        self._on_bytes = on_bytes
        self._on_end = on_end
        self._pipe: Pipe | None = None
        self._held = 0
        """Bytes in the pipe: read from the source, not yet taken by the sink."""
        self._at_end = False
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

    def _run(self) -> None:
        try:
            done = self._move()
        except OSError as error:
            self._end(error)
            return
        if done:
            self._end(None)

    def _move(self) -> bool:
        """Moves up to a fair share; True at the end of the flow."""
        moved = 0
        while moved < _FAIR_SHARE:
            if self._held == 0:
                if self._at_end:
                    return True
                taken = self._fill()
                if taken is None:
                    self._rest()
                    return False
                if taken == 0:
                    self._at_end = True
                    continue
                moved += taken
            if not self._drain():
                self._wait_for("sink")
                return False
        self._wait_for("source" if self._held == 0 else "sink")
        return False

    def _fill(self) -> int | None:
        """Bytes taken from the source into the pipe, 0 at its end, None when there is nothing now."""
        if self._pipe is None:
            self._pipe = self._pipes.take()
        try:
            taken = os.splice(self._source.fileno(), self._pipe.write_end, PIPE_BYTES, flags=_FLAGS)
        except BlockingIOError:
            return None
        self._held += taken
        return taken

    def _drain(self) -> bool:
        """Bytes from the pipe into the sink; False when the sink takes no more for now."""
        if self._pipe is None:
            return True
        while self._held:
            try:
                given = os.splice(self._pipe.read_end, self._sink.fileno(), self._held, flags=_FLAGS)
            except BlockingIOError:
                return False
            if given == 0:
                raise OSError(errno.EPIPE, "the sink takes no more bytes")
            self._held -= given
            self._on_bytes(given)
        return True

    def _rest(self) -> None:
        """Nothing to do until the source has more: an idle flow holds no pipe."""
        if self._pipe is not None:
            self._pipes.give_back(self._pipe, empty=True)
            self._pipe = None
        self._wait_for("source")

    def _end(self, error: OSError | None) -> None:
        self.stop()
        if error is None:
            try:
                self._sink.shutdown(socket.SHUT_WR)
            except OSError as refused:
                error = refused
        self._on_end(error)

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
