"""One end of an HTTP/2 connection: `h2` with a TLS stream under it, and bounds on what a peer may make it keep.

Both ends that the proxy has are made of it: `front` towards the client, `upstream_h2` towards the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Final

import structlog
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    PingReceived,
    PriorityUpdated,
    RemoteSettingsChanged,
    SettingsAcknowledged,
    UnknownFrameReceived,
    WindowUpdated,
)
from h2.exceptions import H2Error
from hyperframe.frame import GoAwayFrame
from OpenSSL import SSL

from cloned_proxy.proxy.inspection.connections import bounds
from cloned_proxy.proxy.inspection.connections.bounds import Calm
from cloned_proxy.proxy.inspection.connections.h2_state import make_connection
from cloned_proxy.proxy.inspection.connections.pipe import Pipe
from cloned_proxy.proxy.inspection.connections.tls import TlsStream

_log = structlog.get_logger(__name__)

_IDLE_TALK: Final = (PingReceived, RemoteSettingsChanged, PriorityUpdated, UnknownFrameReceived, SettingsAcknowledged)
"""What asks for nothing; each costs a look, some an answer."""
_STREAM_ENDED: Final = "the stream has ended"


class StreamWindow:
    """How much the sender of one stream may have under way.

    Bytes come back to it when the reader has taken them. Grows for a reader that keeps up, within the allowance of the
    connection.
    """

    __slots__ = ("_endpoint", "_pending", "_stream", "pipe", "size")

    def __init__(self, endpoint: Endpoint, stream: int) -> None:
        self._endpoint = endpoint
        self._stream = stream
        self._pending = 0
        self.size = bounds.STREAM_WINDOW
        self.pipe: Final = Pipe(self.taken)

    def taken(self, count: int) -> None:
        self._pending += count
        if self.pipe.ended or self._pending * 2 < self.size:
            return
        back, self._pending = self._pending, 0
        # Half a window has passed and nothing waits: the reader is faster than the sender may be.
        if not self.pipe.size and self.size < bounds.GROWN_WINDOW and self._endpoint.growth >= self.size:
            self._endpoint.growth -= self.size
            back += self.size
            self.size *= 2
        self._endpoint.give_window(self._stream, back)

    def close(self) -> None:
        self._endpoint.growth += self.size - bounds.STREAM_WINDOW
        self.size = bounds.STREAM_WINDOW


class Endpoint:
    """Subclasses say what an event of a stream means (`on_event`), and what the end of the connection (`on_closed`)."""

    def __init__(self, tls: TlsStream, *, client_side: bool, max_head_bytes: int) -> None:
        self.tls: Final = tls
        self.h2: Final = make_connection(client_side=client_side, max_head_bytes=max_head_bytes)
        self.growth = bounds.GROWTH
        self.last_byte = time.monotonic()
        self.closed = False
        self._loop: Final = asyncio.get_running_loop()
        self._calm: Final = Calm(burst=1000, rate=100.0, clock=time.monotonic)
        self._flushing = False
        self._senders: dict[int, asyncio.Future[None]] = {}
        """Streams that wait for a window."""
        self._unreturned = 0
        self._reading: asyncio.Task[None] | None = None

    # What subclasses say.

    def on_event(self, event: Event) -> None:
        raise NotImplementedError

    def on_closed(self, problem: str) -> None:
        """The connection is over; `problem` is "" where it ended in order."""
        raise NotImplementedError

    # Reading.

    async def run(self) -> None:
        """From the first byte to the end of the connection. Raises only cancellation."""
        problem = ""
        self._reading = reading = asyncio.Task(self._read(), loop=self._loop, eager_start=True)
        try:
            await asyncio.wait((reading,))
            if not reading.cancelled():
                reading.result()
        except H2Error as error:
            problem = str(error) or type(error).__name__
            self.flush()
        except (OSError, SSL.Error, EOFError):
            problem = "the connection broke"
            self.tls.dead = True
        except Exception:  # noqa: BLE001  logged; whatever it was, the connection must not go on
            _log.exception("an HTTP/2 connection failed and is closed")
            problem = "internal error"
            self.tls.abort()
        finally:
            reading.cancel()
            self._end(problem)

    async def _read(self) -> None:
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(bounds.CONNECTION_WINDOW - 65_535)
        self.flush()
        while not self.closed and (data := await self.tls.read()):
            self.last_byte = time.monotonic()
            self.receive(data)

    def stop_reading(self) -> None:
        """`run` comes to its end, whatever the peer does."""
        if self._reading is not None:
            self._reading.cancel()

    def receive(self, data: bytes) -> None:
        """Raises H2Error for what ends the connection."""
        for event in self.h2.receive_data(data):
            if isinstance(event, DataReceived):
                self._count_data(event)
            elif isinstance(event, WindowUpdated):
                self._window_opened(event.stream_id)
                continue
            elif isinstance(event, _IDLE_TALK):
                if not self._calm.spend():
                    self.give_up(ErrorCodes.ENHANCE_YOUR_CALM)
                    return
                if isinstance(event, RemoteSettingsChanged):
                    self._settings_changed()
                continue
            self.on_event(event)
            if self.closed:
                return
        self.flush_soon()

    def _count_data(self, event: DataReceived) -> None:
        """The connection's window is given back at once: only the windows of the streams hold a sender."""
        if not event.data and event.stream_ended is None and not self._calm.spend():
            self.give_up(ErrorCodes.ENHANCE_YOUR_CALM)
            return
        self._unreturned += event.flow_controlled_length
        if self._unreturned * 4 >= bounds.CONNECTION_WINDOW:
            back, self._unreturned = self._unreturned, 0
            self.h2.increment_flow_control_window(back)

    def _settings_changed(self) -> None:
        # A peer may want a table of gigabytes; nobody has to fill it.
        self.h2.encoder.header_table_size = min(self.h2.encoder.header_table_size, bounds.HEADER_TABLE)
        self._window_opened(0)

    def _window_opened(self, stream: int) -> None:
        waiting = [stream] if stream else list(self._senders)
        for one in waiting:
            if (sender := self._senders.get(one)) is not None and not sender.done():
                sender.set_result(None)

    def give_window(self, stream: int, count: int) -> None:
        if not self.closed:
            with contextlib.suppress(H2Error, KeyError):
                self.h2.increment_flow_control_window(count, stream)
            self.flush_soon()

    # Writing.

    async def send_data(self, stream: int, data: bytes, *, end: bool = False) -> None:
        """Sends as the windows of the peer allow it. Raises H2Error when the stream has ended meanwhile."""
        at, size = 0, len(data)
        while True:
            if self.closed:
                raise H2Error(_STREAM_ENDED)
            room = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size)
            if room > 0 or at == size:
                piece = data[at : at + room] if at or size > room else data
                at += len(piece)
                self.h2.send_data(stream, piece, end_stream=end and at == size)
                if at < size:
                    continue
                self.flush_soon()
                if self.tls.unsent or len(data) > 4096:  # noqa: PLR2004  a page: small ones go with their neighbours
                    self.flush()
                    await self.tls.drain()
                return
            self.flush()
            await self._window_of(stream)

    async def _window_of(self, stream: int) -> None:
        sender = self._senders[stream] = self._loop.create_future()
        try:
            await sender
        finally:
            self._senders.pop(stream, None)

    def release(self, stream: int) -> None:
        """Whoever waits to send on the stream waits in vain."""
        if (sender := self._senders.get(stream)) is not None and not sender.done():
            sender.set_exception(H2Error(_STREAM_ENDED))

    def reset(self, stream: int, code: ErrorCodes) -> None:
        """Ends one stream, whatever state it is in; its neighbours do not notice."""
        self.release(stream)
        if not self.closed:
            with contextlib.suppress(H2Error):
                self.h2.reset_stream(stream, code)
            self.flush_soon()

    def flush_soon(self) -> None:
        """At the end of this turn of the loop: what many streams have to say goes out together."""
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush_now)

    def _flush_now(self) -> None:
        self._flushing = False
        self.flush()

    def flush(self) -> None:
        if data := self.h2.data_to_send():
            try:
                self.tls.write(data)
            except SSL.Error:
                self.tls.abort()
            else:
                self.last_byte = time.monotonic()
                if self.tls.unsent > bounds.UNSENT:
                    # The client asks and asks, and reads nothing.
                    self.tls.abort()

    # The end.

    def retire(self) -> None:
        """Tells the peer that no further stream is taken; those that are open go on to their ends."""
        frame = GoAwayFrame(0, last_stream_id=self.h2.highest_inbound_stream_id, error_code=ErrorCodes.NO_ERROR)
        self.flush()
        self.tls.write(frame.serialize())

    def give_up(self, code: ErrorCodes) -> None:
        """Tells the peer why, and ends the connection with all its streams."""
        if not self.closed:
            with contextlib.suppress(H2Error):
                self.h2.close_connection(code)
            self.flush()
            self._end(code.name)

    def _end(self, problem: str) -> None:
        if self.closed:
            return
        self.closed = True
        self.stop_reading()
        for sender in self._senders.values():
            if not sender.done():
                sender.set_exception(H2Error(_STREAM_ENDED))
        self.on_closed(problem)
        self.tls.close()
