"""One client connection of the gate: its first head, and then a tunnel, the inspection, or an answer."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Protocol, cast

import structlog

from cloned_proxy.policy.model import IdentityRefusal, Reason
from cloned_proxy.proxy import answers
from cloned_proxy.proxy.answers import Answer
from cloned_proxy.proxy.bulk import Splicer
from cloned_proxy.proxy.enforcer import Enforcer
from cloned_proxy.proxy.head import EMPTY_LINE, FIRST_OF_TOKEN, Head, HeadError, parse_head
from cloned_proxy.proxy.injection import Injector
from cloned_proxy.proxy.inspection import Inspector
from cloned_proxy.proxy.linger import LINGER_BYTES, LINGER_SECONDS
from cloned_proxy.proxy.listener import Listener
from cloned_proxy.proxy.relay import Relay, reset
from cloned_proxy.proxy.requests_api import RequestsApi
from cloned_proxy.proxy.tunnels import Tunnels
from cloned_proxy.store.config import ProxySettings
from cloned_proxy.telemetry.events import Kind
from cloned_proxy.telemetry.metrics import Metrics

_log = structlog.get_logger(__name__)


class _Phase(enum.Enum):
    HEAD = enum.auto()
    DECIDING = enum.auto()
    """A task owns the connection; bytes that come wait in the buffer."""
    HANDED_OVER = enum.auto()
    """To the relay or the inspector: another protocol is on the transport."""
    LINGERING = enum.auto()


@dataclass(frozen=True, slots=True)
class GateParts:
    """What every connection works with."""

    enforcer: Enforcer
    identity_key: bytes
    settings: ProxySettings
    metrics: Metrics
    inspector: Inspector | None
    injector: Injector
    clock: Callable[[], float]
    """Wall clock, for the expiry of credentials."""
    tunnels: Tunnels
    splicer: Splicer | None
    """None where bytes stay on the transports: `os.splice` is Linux only."""
    requests: RequestsApi | None
    """What answers at `http://cloned.internal`; without it that name is refused like any other."""
    admit: Callable[[ClientConnection], bool]
    """Counts a new connection; False when it is one too many."""
    forget: Callable[[ClientConnection], None]
    """The connection and all that came of it are closed."""
    stopping: Callable[[], bool]
    serve: Callable[[ClientConnection, Head], Coroutine[None, None, None]]
    """What follows the head of a CONNECT: `connect.serve`."""
    serve_plain: Callable[[ClientConnection, Head], None]
    """What follows every other head: `PlainHttp.serve`."""


class Successor(Protocol):
    """Who has the transport of a connection whose requests are plain HTTP."""

    @property
    def quiet(self) -> bool: ...

    def cut(self, cause: str) -> None: ...


class ClientConnection(asyncio.Protocol):
    """Reads one head strictly. Whatever goes wrong in here ends the connection and forwards nothing."""

    __slots__ = ("_buffer", "_dropped", "_loop", "_phase", "_searched", "_task", "_timer", "_waiter",
                 "cause", "eof", "listener", "lost", "parts", "plain", "relay", "transport")  # fmt: skip

    def __init__(self, parts: GateParts, listener: Listener) -> None:
        self.parts = parts
        self.listener = listener
        self.transport: asyncio.Transport
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
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._waiter: asyncio.Future[bool] | None = None

    # The transport's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not an instance in the eyes of Python with uvloop, whose transports share only the interface.
        self.transport = cast(asyncio.Transport, transport)
        if self.parts.admit(self):
            self._arm(self.parts.settings.head_timeout, self._head_timed_out)
        else:
            self.answer(answers.overloaded())

    def data_received(self, data: bytes) -> None:
        try:
            if self._phase is _Phase.LINGERING:
                self._drop(data)
                return
            if self._phase is _Phase.HEAD and not self._buffer:
                self._arm(self.parts.settings.head_timeout, self._head_timed_out)
            self._buffer += data
            if self._phase is _Phase.HEAD:
                self._look_for_head()
            else:
                self.transport.pause_reading()
                self._wake(more=True)
        except Exception:  # noqa: BLE001  logged there; whatever it was, the connection must not go on
            self._failed()

    def eof_received(self) -> bool:
        self.eof = True
        self._wake(more=False)
        # While a task decides, the connection stays: a client may send all that it has to say, and then FIN.
        return self._phase is _Phase.DECIDING

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's interface
        self.lost = True
        self._disarm()
        if self._task is not None:
            self._task.cancel()
        else:
            self.parts.forget(self)

    # For `connect`, which decides what becomes of the connection.

    async def more(self, seen: int) -> bool:
        """Waits until the client has sent more than `seen` bytes of its tunnel; False at its FIN."""
        if self.eof or len(self._buffer) > seen:
            return len(self._buffer) > seen
        self._waiter = self._loop.create_future()
        self.transport.resume_reading()
        try:
            return await self._waiter
        finally:
            self._waiter = None

    def peek(self, start: int = 0) -> bytes:
        """What the client has sent behind its CONNECT head and nobody has taken."""
        return bytes(self._buffer[start:])

    def take(self) -> bytes:
        taken = bytes(self._buffer)
        self._buffer.clear()
        return taken

    def hand_over(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Streams for the inspection; the reader starts with what was read but not used."""
        reader = asyncio.StreamReader(loop=self._loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=self._loop)
        self._phase = _Phase.HANDED_OVER
        self.transport.set_protocol(protocol)
        protocol.connection_made(self.transport)
        # Running again before the bytes are fed: a full reader pauses the transport by itself.
        self.transport.resume_reading()
        reader.feed_data(self.take())
        return reader, asyncio.StreamWriter(self.transport, protocol, reader, self._loop)

    def release(self) -> None:
        """After the inspection: what it wrote may still go out, but not for long."""
        if not self.lost:
            self.transport.close()
            self._loop.call_later(LINGER_SECONDS, self.transport.abort)

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
        self.transport.resume_reading()
        self._arm(LINGER_SECONDS, self.transport.abort)

    # For a call that waits for a person.

    @property
    def gone(self) -> bool:
        return self.eof or self.lost

    def watch(self) -> None:
        # Not read while a task decides, a connection would not be seen to end. What comes stops the reading again.
        self.transport.resume_reading()

    # For the gate.

    @property
    def quiet(self) -> bool:
        """Whether the client has not asked for anything yet."""
        if self.plain is not None:
            return self.plain.quiet
        return self._phase is _Phase.HEAD and not self._buffer

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

    def _look_for_head(self) -> None:
        buffer, limit = self._buffer, self.parts.settings.max_head_bytes
        found = EMPTY_LINE.search(buffer, max(0, self._searched - 2))
        self._searched = len(buffer)
        if FIRST_OF_TOKEN.match(buffer) is None:
            self._refuse_head(HeadError("this is an HTTP proxy, and these bytes are not HTTP"))
        elif (found.end() if found is not None else len(buffer)) > limit:
            self._refuse_head(HeadError(f"a request head of more than {limit} bytes", status=431))
        elif found is not None:
            self._read_head(bytes(buffer[: found.end()]))

    def _read_head(self, data: bytes) -> None:
        self._disarm()
        try:
            head = parse_head(data, max_fields=self.parts.settings.max_head_fields)
        except HeadError as error:
            self._refuse_head(error)
            return
        del self._buffer[: len(data)]
        if head.method != "CONNECT":
            self._phase = _Phase.HANDED_OVER
            self.parts.serve_plain(self, head)
            return
        self._phase = _Phase.DECIDING
        self.transport.pause_reading()
        # Begun here and now: a refusal, and all up to the dial, costs no turn of the loop.
        task = asyncio.Task(self._serve(head), loop=self._loop, eager_start=True)
        if not task.done():
            self._task = task

    async def _serve(self, head: Head) -> None:
        """The connection's one task: no exception leaves it, and none leaves anything open."""
        try:
            await self.parts.serve(self, head)
        except asyncio.CancelledError:
            self.transport.abort()
        except Exception:  # noqa: BLE001  logged there; whatever it was, the connection must not go on
            self._failed()
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
            self._failed()

    def _refuse_head(self, error: HeadError) -> None:
        kind = Kind.TUNNEL if self._buffer.startswith(b"CONNECT ") else Kind.HTTP
        self.answer(answer_to_head(self.parts, self.listener, error, kind))

    def _failed(self) -> None:
        _log.exception("a client connection failed and is closed", listener=self.listener.name)
        reset(self.transport)

    # Small parts.

    def _arm(self, seconds: float, then: Callable[[], None]) -> None:
        self._disarm()
        self._timer = self._loop.call_later(seconds, then)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wake(self, *, more: bool) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(more)

    def _drop(self, data: bytes) -> None:
        self._dropped += len(data)
        if self._dropped > LINGER_BYTES:
            self.transport.abort()


def answer_to_head(parts: GateParts, listener: Listener, error: HeadError, kind: Kind) -> Answer:
    """Puts the refusal of a head on record and says what to mend."""
    caller = listener.principal or IdentityRefusal(Reason.IDENTITY_MISSING)
    refusal = parts.enforcer.refuse(caller, error.request, kind, error.reason)
    status = error.status if refusal.decision.reason is error.reason else None
    return answers.refused(refusal, status=status, explanation=str(error))
