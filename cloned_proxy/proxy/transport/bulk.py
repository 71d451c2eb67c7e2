"""A relay's busy direction leaves its transports for a `splice` pump, and comes back when the kernel has no room.

Each direction moves by itself, so that a slow reader on one side never holds up the other. What makes it exact: the
source's transport is paused, so it has delivered all that it read, and the sink's has nothing left to write, so the
pump's first byte is the next one. The pump works on duplicates of the descriptors, because uvloop lets nobody else
watch those of its transports; the connection ends only when both the transport's and the duplicate are closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from typing import Final

from cloned_proxy.proxy.transport.splice import PipePool, Pump, PumpEnd

BULK_BYTES: Final = 256 * 1024
"""What a direction moves within `BULK_SECONDS` before a pump is worth its two descriptors."""
BULK_SECONDS: Final = 1.0

_MOST_FLOWS: Final = 256
_IDLE_SECONDS: Final = 1.0


class Splicer:
    """What all pumps of a process share. `most` bounds the descriptors that they take beside those of the tunnels."""

    def __init__(self, *, clock: Callable[[], float], most: int = _MOST_FLOWS) -> None:
        self.pipes: Final = PipePool()
        self.clock: Final = clock
        self._most: Final = most
        self._flows: dict[BulkFlow, None] = {}

    def __len__(self) -> int:
        return len(self._flows)

    def join(self, flow: BulkFlow) -> bool:
        """Takes a place, from a flow that has gone quiet if need be; False when there is none."""
        if len(self._flows) >= self._most:
            quiet = self.clock() - _IDLE_SECONDS
            idle = next((one for one in self._flows if one.last_byte <= quiet and one.resting), None)
            if idle is None:
                return False
            idle.give_back()
        self._flows[flow] = None
        return True

    def leave(self, flow: BulkFlow) -> None:
        self._flows.pop(flow, None)

    def close(self) -> None:
        """Lets go of the pooled pipes; called when no flow is left."""
        self.pipes.close()


class BulkFlow:
    """One direction, from `begin` until `stop` or `on_end`.

    `on_end` is called once, unless `stop` came first; `NO_PIPE` says that the source's transport is to be read again.
    """

    __slots__ = ("_duplicates", "_on_bytes", "_on_end", "_pump", "_sink", "_source", "_splicer", "last_byte")

    def __init__(
        self,
        splicer: Splicer,
        source: asyncio.Transport,
        sink: asyncio.Transport,
        *,
        on_bytes: Callable[[int], None],
        on_end: Callable[[PumpEnd], None],
    ) -> None:
        self._splicer = splicer
        self._source = source
        self._sink = sink
        self._on_bytes = on_bytes
        self._on_end = on_end
        self._duplicates: list[socket.socket] = []
        self._pump: Pump | None = None
        self.last_byte = splicer.clock()

    @property
    def resting(self) -> bool:
        return self._pump is not None and self._pump.resting

    def begin(self) -> None:
        """Pauses the source and waits until the sink's transport has written everything."""
        self._source.pause_reading()
        # Zero: `resume_writing` comes at the last byte, not at some low-water mark.
        self._sink.set_write_buffer_limits(0)
        self.sink_drained()

    def sink_drained(self) -> None:
        """The sink's `resume_writing`."""
        if self._pump is None and self._sink.get_write_buffer_size() == 0:
            self._start()

    def give_back(self) -> None:
        """Returns a resting flow to its transports."""
        self._ended(PumpEnd.NO_PIPE)

    def stop(self) -> None:
        """Ends without a word to `on_end`. Harmless when it has ended."""
        if self._pump is not None:
            self._pump.stop()
        while self._duplicates:
            self._duplicates.pop().close()
        self._splicer.leave(self)

    def _start(self) -> None:
        self._sink.set_write_buffer_limits()
        try:
            source, sink = self._duplicate(self._source), self._duplicate(self._sink)
        except OSError:
            self._ended(PumpEnd.NO_PIPE)
            return
        self._pump = Pump(
            asyncio.get_running_loop(),
            source,
            sink,
            self._splicer.pipes,
            on_bytes=self._passed,
            on_end=self._ended,
        )
        self._pump.start()

    def _duplicate(self, transport: asyncio.Transport) -> socket.socket:
        duplicate = os.dup(transport.get_extra_info("socket").fileno())
        try:
            sock = socket.socket(fileno=duplicate)
        except BaseException:
            with contextlib.suppress(OSError):
                os.close(duplicate)
            raise
        self._duplicates.append(sock)
        return sock

    def _passed(self, count: int) -> None:
        self.last_byte = self._splicer.clock()
        self._on_bytes(count)

    def _ended(self, end: PumpEnd) -> None:
        self.stop()
        self._on_end(end)
