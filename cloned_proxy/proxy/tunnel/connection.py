"""One client connection of the gate: its first head, and then a tunnel, the inspection, or an answer."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Final, cast

import structlog

from cloned_proxy.proxy.enforce.answers import Answer
from cloned_proxy.proxy.transport.alarm import Alarm
from cloned_proxy.proxy.transport.linger import LINGER_BYTES, LINGER_SECONDS
from cloned_proxy.proxy.transport.listener import Listener, names_listener
from cloned_proxy.proxy.transport.relay import Relay, reset
from cloned_proxy.proxy.transport.settled import has_more
from cloned_proxy.proxy.tunnel.parts import GateParts, Settling, Successor
from cloned_proxy.proxy.tunnel.refused_head import answer_to_head, head_caller
from cloned_proxy.proxy.wire.head import EMPTY_LINE, FIRST_OF_TOKEN, Head, HeadError, parse_head
from cloned_proxy.telemetry.events import Kind

_log = structlog.get_logger(__name__)

_ESTABLISHED: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"


class _Phase(enum.Enum):
    HEAD = enum.auto()
    DECIDING = enum.auto()
    """What becomes of a CONNECT is being settled; bytes that come wait in the buffer."""
    HANDED_OVER = enum.auto()
    """To the relay or the inspector: another protocol is on the transport."""
    LINGERING = enum.auto()


class ClientConnection(asyncio.Protocol):
    """Reads one head strictly. Whatever goes wrong in here ends the connection and forwards nothing."""

    __slots__ = ("_alarm", "_buffer", "_dropped", "_heard_at", "_held", "_loop", "_phase", "_searched", "_task",
                 "cause", "eof", "listener", "lost", "parts", "plain", "relay", "settling", "source_address",
                 "transport")  # fmt: skip

    def __init__(self, parts: GateParts, listener: Listener) -> None:
        self.parts = parts
        self.listener = listener
        self.source_address = ""
        """Of the client, as a load balancer in front has named it; "" where there is none."""
        self.transport: asyncio.Transport
        self.settling: Settling | None = None
        self.relay: Relay | None = None
        self.plain: Successor | None = None
        self.lost = False
        """The transport has told us that it is closed."""
        self.eof = False
        """The client has sent FIN."""
        self.cause = ""
        """Why the gate cut the connection, "" when it did not."""
        self._loop = asyncio.get_running_loop()
        self._phase = _Phase.HEAD
        self._buffer = bytearray()
        self._searched = 0
        self._dropped = 0
        self._held = False
        """The client is not read."""
        self._alarm = Alarm(self._loop)
        self._heard_at = self._loop.time()
        self._task: asyncio.Task[None] | None = None

    # The transport's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not an instance in the eyes of Python with uvloop, whose transports share only the interface.
        self.transport = cast(asyncio.Transport, transport)
        self.parts.arrived(self)
        self.arm(self.parts.settings.head_timeout, self._head_timed_out)

    def data_received(self, data: bytes) -> None:
        try:
            if self._phase is _Phase.LINGERING:
                self._drop(data)
                return
            begun = bool(self._buffer)
            self._buffer += data
            if not begun:
                self._heard_at = self._loop.time()
            if self._phase is not _Phase.HEAD:
                self._more_arrived()
            elif not self._look_for_head() and not begun:
                self.arm(self.parts.settings.head_timeout, self._head_timed_out)
        except Exception:  # noqa: BLE001  logged there; whatever it was, the connection must not go on
            self.failed()

    def eof_received(self) -> bool:
        self.eof = True
        if self.settling is not None:
            self.settling.client_ended()
        # Meanwhile the connection stays: a client may send all that it has to say, and then FIN.
        return self._phase is _Phase.DECIDING

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's interface
        self.lost = True
        self.disarm()
        if self.settling is not None:
            self.settling.client_lost()
        if self._task is not None:
            self._task.cancel()
        else:
            self.parts.forget(self)

    # For `connect`, which decides what becomes of the connection.

    def run(self, work: Coroutine[None, None, None]) -> None:
        """Runs what has to wait, as the connection's one task: no exception leaves it, and none leaves anything open.

        Begun here and now: up to the first thing that is waited for it costs no turn of the loop.
        """
        task = asyncio.Task(self._guard(work), loop=self._loop, eager_start=True)
        if not task.done():
            self._task = task

    def read_on(self) -> None:
        """Takes more of the client, which was held while its bytes were of no use."""
        if self._held and not self.transport.is_closing():
            self._held = False
            self.transport.resume_reading()

    def resume(self, unread: bytes) -> None:
        """Goes on behind the head of a CONNECT that somebody else has read, with what the client has sent since."""
        self._phase = _Phase.DECIDING
        self._buffer += unread

    def peek(self, start: int = 0) -> bytes:
        """What the client has sent behind its CONNECT head and nobody has taken."""
        return bytes(self._buffer[start:])

    def take(self) -> bytes:
        taken = bytes(self._buffer)
        self._buffer = bytearray()  # a cleared one keeps its memory, for as long as a tunnel lasts
        return taken

    def hand_over(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Streams for the inspection; the reader starts with what was read but not used."""
        reader = asyncio.StreamReader(loop=self._loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=self._loop)
        self._phase = _Phase.HANDED_OVER
        self.transport.set_protocol(protocol)
        protocol.connection_made(self.transport)
        # Running again before the bytes are fed: a full reader pauses the transport by itself.
        self.read_on()
        reader.feed_data(self.take())
        return reader, asyncio.StreamWriter(self.transport, protocol, reader, self._loop)

    def release(self) -> None:
        """After the inspection: what it wrote may still go out, but not for long."""
        if not self.lost:
            self.transport.close()
            self._loop.call_later(LINGER_SECONDS, self.transport.abort)

    def read_head(self, data: bytes) -> Head:
        """The head that is `data`, of this request or a later one. Raises HeadError."""
        names_us = partial(names_listener, self.transport)
        return parse_head(data, names_us=names_us, max_fields=self.parts.settings.max_head_fields)

    def established(self) -> None:
        """Tells the client that its CONNECT was granted."""
        self.transport.write(_ESTABLISHED)

    def answer(self, answer: Answer, *, with_body: bool = True) -> None:
        self.close_after(answer.encode(with_body=with_body))

    def close_after(self, last: bytes) -> None:
        """Sends `last` and FIN, reads on for a moment without looking, and closes."""
        self._phase = _Phase.LINGERING
        self._buffer.clear()
        if self.transport.is_closing():
            return
        self.transport.write(last)
        self.transport.write_eof()
        self.read_on()
        self.arm(LINGER_SECONDS, self.transport.abort)

    # For a call that waits for a person.

    @property
    def gone(self) -> bool:
        return self.eof or self.lost

    def watch(self) -> None:
        # Held, a connection would not be seen to end. What comes holds it again.
        self.read_on()

    # For the gate.

    @property
    def quiet(self) -> bool:
        """Whether the client has not asked for anything yet."""
        if self.plain is not None:
            return self.plain.quiet
        return self._phase is _Phase.HEAD and not self._buffer

    @property
    def over(self) -> bool:
        """Whether its requests are answered: what the client has still to do is to take what was written for it."""
        return self.plain is not None and self.plain.over

    @property
    def begun(self) -> bool:
        """Whether a head has begun and is not whole; `quiet_since` says since when."""
        if self.plain is not None:
            return self.plain.begun
        return self._phase is _Phase.HEAD and bool(self._buffer)

    @property
    def quiet_since(self) -> float:
        """Monotonic seconds: since when one is quiet, or when the first byte of the head that has begun came."""
        if self.plain is not None:
            return self.plain.quiet_since
        return self._heard_at

    def let_go(self) -> None:
        """FIN, to one that is quiet, or whose head has begun and is not whole."""
        if self.plain is not None:
            self.plain.let_go()
        elif not has_more(self.transport):
            self.transport.close()

    def cut(self, cause: str) -> None:
        """Resets the client, and the upstream if there is one, at once."""
        self.cause = self.cause or cause
        if self.plain is not None:
            self.plain.cut(cause)
            return
        if self.relay is not None and self.relay.started:
            self.relay.cut(cause)
            return
        reset(self.transport)
        if self._task is not None:
            self._task.cancel()

    # The head.

    def _look_for_head(self) -> bool:
        """Whether it is settled what the bytes so far are."""
        buffer, limit = self._buffer, self.parts.settings.max_head_bytes
        found = EMPTY_LINE.search(buffer, max(0, self._searched - 2))
        self._searched = len(buffer)
        if FIRST_OF_TOKEN.match(buffer) is None:
            self._refuse_head(HeadError("this is an HTTP proxy, and these bytes are not HTTP"))
        elif (found.end() if found is not None else len(buffer)) > limit:
            self._refuse_head(HeadError(f"a request head of more than {limit} bytes", status=431))
        elif found is not None:
            self._read_head(bytes(buffer[: found.end()]))
        else:
            return False
        return True

    def _read_head(self, data: bytes) -> None:
        self._alarm.put_off()
        known = None if self.source_address else self.parts.refusals.answer(self.listener, data)
        if known is not None:
            self.close_after(known)
            return
        try:
            head = self.read_head(data)
        except HeadError as error:
            self._refuse_head(error)
            return
        del self._buffer[: len(data)]
        if head.method != "CONNECT":
            self._phase = _Phase.HANDED_OVER
            self.disarm()
            self.parts.serve_plain(self, head)
            return
        self._connect(head, data)

    def _connect(self, head: Head, data: bytes = b"") -> None:
        self._phase = _Phase.DECIDING
        self.parts.serve(self, head, data)

    def _more_arrived(self) -> None:
        """Behind a head that is still being settled: it is kept, and what nobody waits for stays with the kernel."""
        wanted = self.settling is not None and self.settling.client_sent()
        if not wanted and self._phase is _Phase.DECIDING and not self._held and not self.transport.is_closing():
            self._held = True
            self.transport.pause_reading()

    async def _guard(self, work: Coroutine[None, None, None]) -> None:
        try:
            await work
        except asyncio.CancelledError:
            self.transport.abort()
        except Exception:  # noqa: BLE001  logged there; whatever it was, the connection must not go on
            self.failed()
        finally:
            self._task = None
            if self.lost or (self._phase is _Phase.HANDED_OVER and self.relay is None):
                self.parts.forget(self)

    def _head_timed_out(self) -> None:
        try:
            if self._buffer:
                self._refuse_head(HeadError("the request head did not come in time", status=408))
            else:
                self.transport.abort()
        except Exception:  # noqa: BLE001  logged there; whatever it was, the connection must not go on
            self.failed()

    def _refuse_head(self, error: HeadError) -> None:
        kind = Kind.TUNNEL if self._buffer.startswith(b"CONNECT ") else Kind.HTTP
        self._phase = _Phase.DECIDING
        self.disarm()
        self.run(self._refused_head(error, kind))

    async def _refused_head(self, error: HeadError, kind: Kind) -> None:
        caller = head_caller(self.parts, self.listener, error, self.source_address)
        await self.parts.enforcer.breath(caller)
        self.answer(answer_to_head(self.parts, caller, error, kind))

    def failed(self) -> None:
        """Called while an unexpected exception is handled."""
        _log.exception("a client connection failed and is closed", listener=self.listener.name)
        reset(self.transport)

    # Small parts.

    def arm(self, seconds: float, then: Callable[[], None]) -> None:
        """Calls `then` once, unless it is armed anew before."""
        self._alarm.set(seconds, then)

    def disarm(self) -> None:
        self._alarm.stop()

    def _drop(self, data: bytes) -> None:
        self._dropped += len(data)
        if self._dropped > LINGER_BYTES:
            self.transport.abort()
