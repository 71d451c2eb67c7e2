"""A client of the gate, whoever reads it: handed on with its transport, from its first head to who serves that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Final, Protocol

import structlog

from cloned_proxy.proxy.enforce.answers import Answer
from cloned_proxy.proxy.transport.alarm import Alarm
from cloned_proxy.proxy.transport.linger import LINGER_BYTES, LINGER_SECONDS
from cloned_proxy.proxy.transport.listener import Listener, names_listener
from cloned_proxy.proxy.transport.relay import reset
from cloned_proxy.proxy.tunnel.parts import GateParts
from cloned_proxy.proxy.wire.head import Head, parse_head

_log = structlog.get_logger(__name__)

_ESTABLISHED: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"


class Owner(Protocol):
    """Who answers for the client at the gate: its connection, a tunnel, or plain HTTP."""

    @property
    def quiet(self) -> bool:
        """Whether nothing that the client has asked for is under way."""

    @property
    def quiet_since(self) -> float:
        """Monotonic seconds, of one that is quiet."""

    def cut(self, cause: str) -> None:
        """Resets the client, and the upstream if there is one, at once."""


class Client:
    """Its transport, one deadline, and how it is answered for the last time. The gate knows it until `forget`."""

    __slots__ = ("_alarm", "_dropped", "_held", "_loop", "_task", "buffer", "cause", "eof", "lingers", "listener",
                 "lost", "owner", "parts", "source_address", "streamed", "transport")  # fmt: skip

    def __init__(self, parts: GateParts, listener: Listener, owner: Owner) -> None:
        self.parts = parts
        self.listener = listener
        self.owner: Owner | None = owner
        """None when the gate has forgotten the client: the two would keep each other from being freed."""
        self.source_address = ""
        """Of the client, as a load balancer in front has named it; "" where there is none."""
        self.transport: asyncio.Transport
        self.buffer = bytearray()
        """What the client has sent and nobody has taken."""
        self.lost = False
        """The transport has told us that it is closed."""
        self.eof = False
        """The client has sent FIN."""
        self.cause = ""
        """Why the gate cut the connection, "" when it did not."""
        self.lingers = False
        """The last byte was written; what still comes is not looked at."""
        self.streamed = False
        """The inspection has its streams, and nobody tells us when the transport is closed."""
        self._loop = asyncio.get_running_loop()
        self._dropped = 0
        self._held = False
        """The client is not read."""
        self._alarm = Alarm(self._loop)
        self._task: asyncio.Task[None] | None = None

    # What it sends.

    def take(self) -> bytes:
        taken = bytes(self.buffer)
        self.buffer = bytearray()  # a cleared one keeps its memory, for as long as a tunnel lasts
        return taken

    def hold(self) -> None:
        """Its bytes are of no use yet: what nobody waits for stays with the kernel."""
        if not self._held and not self.transport.is_closing():
            self._held = True
            self.transport.pause_reading()

    def read_on(self) -> None:
        """Takes more of the client, which was held while its bytes were of no use."""
        if self._held and not self.transport.is_closing():
            self._held = False
            self.transport.resume_reading()

    def drop(self, data: bytes) -> None:
        """What comes behind the last answer: no more than a careless client sends."""
        self._dropped += len(data)
        if self._dropped > LINGER_BYTES:
            self.transport.abort()

    def read_head(self, data: bytes) -> Head:
        """The head that is `data`, of this request or a later one. Raises HeadError."""
        names_us = partial(names_listener, self.transport)
        return parse_head(data, names_us=names_us, max_fields=self.parts.settings.max_head_fields)

    # What it is told.

    def established(self) -> None:
        """Tells the client that its CONNECT was granted."""
        self.transport.write(_ESTABLISHED)

    def answer(self, answer: Answer) -> None:
        self.close_after(answer.encode())

    def close_after(self, last: bytes) -> None:
        """Sends `last` and FIN, reads on for a moment without looking, and closes."""
        self.lingers = True
        self.buffer.clear()
        if self.transport.is_closing():
            return
        self.transport.write(last)
        self.transport.write_eof()
        self.read_on()
        self.arm(LINGER_SECONDS, self.transport.abort)

    def reset(self) -> None:
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
            await work
        except asyncio.CancelledError:
            self.transport.abort()
        except Exception:  # noqa: BLE001  logged there; whatever it was, the connection must not go on
            self.failed()
        finally:
            # The decision that was waited for may have begun an inspection, which is the task from then on.
            if self._task is asyncio.current_task():
                self._task = None
            if self._task is None and (self.lost or self.streamed):
                self.parts.forget(self)

    def arm(self, seconds: float, then: Callable[[], None]) -> None:
        """Calls `then` once, unless it is armed anew before."""
        self._alarm.set(seconds, then)

    def disarm(self) -> None:
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
            self.parts.forget(self)

    # For a call that waits for a person.

    @property
    def gone(self) -> bool:
        return self.eof or self.lost

    def watch(self) -> None:
        # Held, a connection would not be seen to end. What comes holds it again.
        self.read_on()

    # For the gate.

    @property
    def deadline(self) -> float:
        """What it was armed for last, on the clock of the loop."""
        return self._alarm.deadline

    @property
    def quiet(self) -> bool:
        return self.owner is not None and self.owner.quiet

    @property
    def quiet_since(self) -> float:
        """Monotonic seconds, of one that is quiet."""
        return self._alarm.deadline if self.owner is None else self.owner.quiet_since

    def cut(self, cause: str) -> None:
        """Resets the client, and the upstream if there is one, at once."""
        self.cause = self.cause or cause
        if self.owner is None:
            self.reset()
        else:
            self.owner.cut(cause)
