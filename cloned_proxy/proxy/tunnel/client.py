"""A client of the gate, whoever reads it: handed on with its transport, from its first head to who serves that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Final, Protocol

import structlog

from cloned_proxy.proxy.enforce.answers import Answer
from cloned_proxy.proxy.transport.alarm import Alarm
from cloned_proxy.proxy.transport.linger import LINGER_BYTES, LINGER_SECONDS, send_fin
from cloned_proxy.proxy.transport.listener import Listener, names_listener
from cloned_proxy.proxy.transport.reset import reset
from cloned_proxy.proxy.transport.settled import has_more
from cloned_proxy.proxy.tunnel.closing import ClosingOnFailure
from cloned_proxy.proxy.tunnel.gate_services import GateServices
from cloned_proxy.proxy.wire.head import Head, parse_head

_log = structlog.get_logger(__name__)

_ESTABLISHED: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"


class Owner(Protocol):
    """Who serves what a client has asked for, and answers for the client at the gate: a tunnel, or plain HTTP."""

    @property
    def over(self) -> bool:
        """Whether its requests are answered: what the client has still to do is to take what was written for it."""

    @property
    def quiet(self) -> bool:
        """Whether nothing that the client has asked for is under way."""

    @property
    def begun(self) -> bool:
        """Whether a head has begun and is not whole."""

    @property
    def quiet_since(self) -> float:
        """Monotonic seconds: since when one is quiet, or when the first byte of the head that has begun came."""

    def let_go(self) -> None:
        """FIN, to one that is quiet, or whose head has begun and is not whole."""

    def cut(self, cause: str) -> None:
        """Resets the client, and the upstream if there is one, at once."""


class Client:
    """A client's transport, one deadline, and the last answer. The gate knows the client until `forget`."""

    __slots__ = ("_alarm", "_dropped", "_held", "_loop", "_task", "asked", "buffer", "cause", "eof", "heard_at",
                 "lingers", "listener", "lost", "owner", "services", "source_address", "streamed",
                 "transport")  # fmt: skip

    def __init__(self, services: GateServices, listener: Listener) -> None:
        self.services = services
        self.listener = listener
        self.source_address = ""
        """The client's address, as a load balancer in front has named it; "" where no load balancer is."""
        self.transport: asyncio.Transport
        self.owner: Owner | None = None
        """None before the first head is settled, and again when the gate has forgotten the client."""
        self.buffer = bytearray()
        """What the client has sent and nobody has taken."""
        self.asked = False
        """The first bytes are understood. What becomes of the client may still be undecided."""
        self.lost = False
        """The transport has told us that it is closed."""
        self.eof = False
        """The client has sent FIN."""
        self.cause = ""
        """Why the gate cut the connection; "" when the gate did not."""
        self.lingers = False
        """The last byte was written; what still comes is not looked at."""
        self.streamed = False
        """The inspection has its streams, and nobody tells us when the transport is closed."""
        self._loop = asyncio.get_running_loop()
        self.heard_at = self._loop.time()
        """When the client connected, or when the first byte of a head came that is not whole."""
        self._alarm = Alarm(self._loop)
        self._dropped = 0
        self._held = False
        """The client is not read."""
        self._task: asyncio.Task[None] | None = None

    # What it sends.

    def take(self) -> bytes:
        """All that is in the buffer."""
        taken = bytes(self.buffer)
        self.buffer = bytearray()  # a cleared one keeps its memory, for as long as a tunnel lasts
        return taken

    def hold(self) -> None:
        """Stops reading: its bytes are of no use yet, and what nobody waits for stays with the kernel."""
        if not self._held and not self.transport.is_closing():
            self._held = True
            self.transport.pause_reading()

    def read_on(self) -> None:
        """Takes more of the client, which was held while its bytes were of no use."""
        if self._held and not self.transport.is_closing():
            self._held = False
            self.transport.resume_reading()

    def drop(self, data: bytes) -> None:
        """Throws away what comes behind the last answer: no more than a careless client sends."""
        self._dropped += len(data)
        if self._dropped > LINGER_BYTES:
            self.transport.abort()

    def read_head(self, data: bytes) -> Head:
        """The head that is `data`, of this request or a later one. Raises HeadError."""
        names_us = partial(names_listener, self.transport)
        return parse_head(data, names_us=names_us, max_fields=self.services.settings.max_head_fields)

    # What it is told.

    def established(self) -> None:
        """Tells the client that its CONNECT was granted."""
        self.transport.write(_ESTABLISHED)

    def answer(self, answer: Answer) -> None:
        """Sends the last answer: the connection ends behind that."""
        self.close_after(answer.encode())

    def close_after(self, last: bytes) -> None:
        """Sends `last` and FIN, reads on for a moment without looking, and closes."""
        self.lingers = True
        self.buffer.clear()
        if self.transport.is_closing():
            return
        self.transport.write(last)
        send_fin(self.transport)
        self.read_on()
        self.arm(LINGER_SECONDS, self.transport.abort)

    def reset(self) -> None:
        """Closes at once, with RST, and ends what is waited for on the client's behalf."""
        reset(self.transport)
        if self._task is not None:
            self._task.cancel()

    def failed(self) -> None:
        """Called while an unexpected exception is handled."""
        _log.exception("a client connection failed and is closed", listener=self.listener.name)
        reset(self.transport)

    # What has to be waited for.

    def run(self, work: Coroutine[None, None, None]) -> None:
        """Runs what has to wait, as the client's one task: no exception leaves it, and none leaves anything open.

        Begun here and now: up to the first thing that is waited for it costs no turn of the loop.
        """
        task = asyncio.Task(self._guard(work), loop=self._loop, eager_start=True)
        if not task.done():
            self._task = task

    async def _guard(self, work: Coroutine[None, None, None]) -> None:
        try:
            with ClosingOnFailure(self):
                await work
        except asyncio.CancelledError:
            self.transport.abort()
        finally:
            # The decision that was waited for may have begun an inspection, which is the task from then on.
            if self._task is asyncio.current_task():
                self._task = None
            if self._task is None and (self.lost or self.streamed):
                self.services.forget(self)

    def arm(self, seconds: float, then: Callable[[], None]) -> None:
        """Calls `then` once, unless it is armed anew before."""
        self._alarm.set(seconds, then)

    def disarm(self) -> None:
        """Nothing is called any more, until it is armed anew."""
        self._alarm.stop()

    def put_off(self) -> None:
        """The deadline is about to be set anew, or stopped."""
        self._alarm.put_off()

    def ended(self) -> None:
        """The transport says that it is closed."""
        self.lost = True
        self.disarm()
        if self._task is not None:
            self._task.cancel()
        else:
            self.services.forget(self)

    # For a call that waits for a person.

    @property
    def gone(self) -> bool:
        """Whether nobody is there to hear the answer."""
        return self.eof or self.lost

    def watch(self) -> None:
        """Reads on, so that the end of the client is seen."""
        # Held, a connection would not be seen to end. What comes holds it again.
        self.read_on()

    # For the gate: as of `Owner`, and before there is one.

    @property
    def over(self) -> bool:
        return self.owner is not None and self.owner.over

    @property
    def quiet(self) -> bool:
        return not (self.asked or self.buffer) if self.owner is None else self.owner.quiet

    @property
    def begun(self) -> bool:
        return not self.asked and bool(self.buffer) if self.owner is None else self.owner.begun

    @property
    def quiet_since(self) -> float:
        return self.heard_at if self.owner is None else self.owner.quiet_since

    def let_go(self) -> None:
        if self.owner is not None:
            self.owner.let_go()
        elif not has_more(self.transport):
            self.transport.close()

    def cut(self, cause: str) -> None:
        self.cause = self.cause or cause
        if self.owner is not None:
            self.owner.cut(cause)
        else:
            self.reset()
