"""A client connection of plain HTTP requests, from the second byte of work on: the gate has read its first head."""

from __future__ import annotations

import asyncio
import enum
import time
from collections.abc import Callable
from functools import partial
from typing import Final

import structlog

from cloned_proxy.policy.caller import Caller
from cloned_proxy.policy.identity import identify
from cloned_proxy.policy.model import Request
from cloned_proxy.proxy import answers
from cloned_proxy.proxy.answers import Answer
from cloned_proxy.proxy.body import BodyError, Buffer, SizedBody
from cloned_proxy.proxy.connection import ClientConnection, answer_to_head, head_caller
from cloned_proxy.proxy.grant import Grant, Refusal
from cloned_proxy.proxy.head import Head, HeadError
from cloned_proxy.proxy.linger import LINGER_BYTES, LINGER_SECONDS
from cloned_proxy.proxy.plain.exchange import Exchange
from cloned_proxy.proxy.plain.heads import next_head
from cloned_proxy.proxy.plain.own import OwnExchange, is_own
from cloned_proxy.proxy.plain.upstream import Pool
from cloned_proxy.proxy.relay import reset
from cloned_proxy.telemetry.events import Kind

_log = structlog.get_logger(__name__)

_BACKLOG: Final = 65_536
"""Bytes of a body that waits for its upstream, or of pipelined requests; at more the client is not read."""
_SMALL_BODY: Final = 65_536
"""The body of a refused request that is read and thrown away, so that the connection can be kept."""
_NEVER: Final = float("inf")


class _Phase(enum.Enum):
    HEAD = enum.auto()
    DECIDING = enum.auto()
    EXCHANGE = enum.auto()
    DISCARDING = enum.auto()
    """Of a refused request the body."""
    CLOSING = enum.auto()
    """The last byte has been written; what still comes is not looked at."""


class PlainClient(asyncio.Protocol):
    """Serves one request after the other; pipelined bytes wait. Each request is identified and authorised anew."""

    __slots__ = ("_connection", "_discard", "_dropped", "_exchange", "_head_began", "_held", "_phase", "_serving",
                 "_task", "buffer", "deadline", "eof", "full", "home", "parts", "pool", "transport")  # fmt: skip

    def __init__(self, home: set[PlainClient], pool: Pool, connection: ClientConnection) -> None:
        self.parts = connection.parts
        self.pool = pool
        self.home = home
        self.transport = connection.transport
        self.buffer = Buffer()
        self.full = False
        """The client does not read what was written for it."""
        self.eof = connection.eof
        self.deadline = _NEVER
        """When the phase must have ended, monotonic; `check` looks at it once a second."""
        self._connection = connection
        self._phase = _Phase.HEAD
        self._exchange: Exchange | OwnExchange | None = None
        self._task: asyncio.Task[None] | None = None
        self._discard = SizedBody(0)
        self._dropped = 0
        self._head_began = False
        self._held = False
        self._serving = False

    def start(self, head: Head) -> None:
        """Takes over the transport, with the first head read and everything behind it in the gate's buffer."""
        self.home.add(self)
        self.buffer += self._connection.take()
        self.transport.set_protocol(self)
        self._begin(head)
        self._serve()

    # The transport's side.

    def data_received(self, data: bytes) -> None:
        try:
            self._take(data)
        except BodyError as error:
            if self._exchange is not None:
                self._exchange.refuse_body(error)
        except Exception:  # noqa: BLE001  logged there; whatever it was, the connection must not go on
            self.failed()

    def _take(self, data: bytes) -> None:
        exchange = self._exchange
        if self._phase is _Phase.CLOSING:
            self._drop(data)
        elif exchange is None:
            self.buffer += data
            self._serve()
        elif len(self.buffer) or not exchange.pass_request(data):
            self.buffer += data
            exchange.request_bytes()
        self.balance()

    def eof_received(self) -> bool:
        self.eof = True
        if self._exchange is not None and not self._exchange.sent:
            self.cut("client_reset")
        elif self._exchange is not None:
            self._exchange.client_ended()
        # A client may send all that it has to say, and then FIN: it gets its answers.
        return self._exchange is not None or self._phase is _Phase.DECIDING

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's interface
        self._phase = _Phase.CLOSING
        if self._task is not None:
            self._task.cancel()
        if self._exchange is not None:
            self._exchange.cut("client_reset")
        self.forget()

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False
        if self._exchange is not None:
            self._exchange.client_drained()
        self._serve()

    # For a call that waits for a person.

    @property
    def gone(self) -> bool:
        return self.eof

    def watch(self) -> None:
        """It is read all the time, up to the bound of its buffer."""

    # For the exchange.

    def balance(self) -> None:
        """Stops reading a client that sends more than is taken from it, and goes on when it was taken."""
        held = len(self.buffer) > _BACKLOG and self._phase is not _Phase.CLOSING
        if held is not self._held and not self.transport.is_closing():
            self._held = held
            if held:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    def exchange_ended(self, *, keep: bool) -> None:
        """A response has been written to its end."""
        self._exchange = None
        if not keep:
            self._close()
            return
        self._phase = _Phase.HEAD
        self._serve()
        self.balance()

    def answer(self, head: Head, answer: Answer, *, keep: bool = True) -> None:
        """Our own answer to a request; the connection is kept when little or nothing of that is left to read."""
        self._exchange = None
        length = head.content_length or 0
        keep = keep and head.keep_alive and not head.chunked and length <= _SMALL_BODY and not self.parts.stopping()
        # Whoever waits for `100 Continue` will not send the body: what comes next could be either (RFC 9110, 10.1.1).
        keep = keep and not (length and any(name == "expect" for name, _ in head.fields))
        self.transport.write(answer.encode(with_body=head.method != "HEAD", keep_alive=keep))
        if not keep:
            self._close()
            return
        self._phase = _Phase.DISCARDING if length else _Phase.HEAD
        self._discard = SizedBody(length)
        self._serve()
        self.balance()

    def refuse_head(self, error: HeadError) -> None:
        self._exchange = None
        caller = head_caller(self._connection.listener)
        if self.parts.enforcer.behind(caller):
            self._after_breath(caller, partial(self._answer_head, error))
        else:
            self._answer_head(error)

    def _after_breath(self, caller: Caller, then: Callable[[], None]) -> None:
        """The log is slow, and this caller has had its share of it: the connection waits, and is not refused."""
        self._phase = _Phase.DECIDING
        self._task = asyncio.get_running_loop().create_task(self._wait_for_breath(caller, then))

    async def _wait_for_breath(self, caller: Caller, then: Callable[[], None]) -> None:
        try:
            await self.parts.enforcer.breath(caller)
            self._task = None
            then()
            self._serve()
            self.balance()
        except Exception:  # noqa: BLE001  logged there; whatever it was, the connection must not go on
            self.failed()

    def _answer_head(self, error: HeadError) -> None:
        answer = answer_to_head(self.parts, self._connection.listener, error, Kind.HTTP)
        self.transport.write(answer.encode())
        self._close()

    def reset(self) -> None:
        self._exchange = None
        self._phase = _Phase.CLOSING
        reset(self.transport)

    def failed(self) -> None:
        """Called while an unexpected exception is handled."""
        _log.exception("a client connection failed and is closed", listener=self._connection.listener.name)
        if self._exchange is not None:
            self._exchange.cut("internal_error")
        self.reset()

    @staticmethod
    def log_bad_response(problem: str, decision: str) -> None:
        _log.info("an upstream's response was refused", problem=problem, decision=decision)

    def forget(self) -> None:
        self.home.discard(self)
        self._connection.plain = None
        self.parts.forget(self._connection)

    # For the gate.

    @property
    def quiet(self) -> bool:
        """Whether no request is under way."""
        return self._phase is _Phase.HEAD and not len(self.buffer)

    def cut(self, cause: str) -> None:
        """Resets the client, and the upstream if there is one, at once."""
        if self._exchange is not None:
            self._exchange.cut(cause)
        if self._task is not None:
            self._task.cancel()
        self.reset()

    def check(self, now: float) -> None:
        """Ends what has taken too long."""
        if self._exchange is not None:
            if now >= self._exchange.due:
                self._exchange.timed_out()
        elif now < self.deadline:
            pass
        elif self._phase is _Phase.HEAD and len(self.buffer):
            self.refuse_head(HeadError("the request head did not come in time", status=408))
        elif self._phase is not _Phase.DECIDING:
            self.transport.abort()

    # Heads.

    def _serve(self) -> None:
        """Reads and begins requests until one has to be waited for."""
        if self._serving:
            return
        self._serving = True
        try:
            while self._phase in (_Phase.HEAD, _Phase.DISCARDING) and not self.full and self._next():
                pass
        finally:
            self._serving = False
        if self._phase in (_Phase.HEAD, _Phase.DISCARDING):
            self._wait_for_more()

    def _next(self) -> bool:
        """Whether there was something to do."""
        if self._phase is _Phase.DISCARDING:
            while piece := self._discard.read(self.buffer):
                pass
            if piece is None:
                self._phase = _Phase.HEAD
            return piece is None
        try:
            head = next_head(self.buffer, self.parts.settings)
        except HeadError as error:
            self.refuse_head(error)
            return False
        if head is not None:
            self._begin(head)
        return head is not None

    def _wait_for_more(self) -> None:
        if self.eof:
            self._close()
            return
        settings = self.parts.settings
        began = bool(len(self.buffer)) or self._phase is _Phase.DISCARDING
        if not began:
            self.deadline = time.monotonic() + settings.keep_alive_timeout
        elif self.deadline is _NEVER or not self._head_began:
            self.deadline = time.monotonic() + settings.head_timeout
        self._head_began = began

    # Decisions.

    def _begin(self, head: Head) -> None:
        parts = self.parts
        self.deadline = _NEVER
        if parts.stopping():
            self.answer(head, answers.unavailable(), keep=False)
            return
        caller = identify(
            head.fields, key=parts.identity_key, now=parts.clock(), listener=self._connection.listener.principal
        )
        if parts.requests is not None and is_own(head.host):
            exchange = OwnExchange(self, head, caller, parts.requests)
            if parts.enforcer.behind(caller):
                self._after_breath(caller, partial(self._start, exchange))
            else:
                self._start(exchange)
            return
        request = Request(head.host, head.port, head.method, head.path)
        outcome = parts.enforcer.authorise_now(caller, request, Kind.HTTP)
        if outcome is None:
            self._phase = _Phase.DECIDING
            self._task = asyncio.get_running_loop().create_task(self._decide(head, caller, request))
        else:
            self._decided(head, outcome)

    async def _decide(self, head: Head, caller: Caller, request: Request) -> None:
        try:
            outcome = await self.parts.enforcer.authorise(caller, request, Kind.HTTP, client=self)
            self._task = None
            self._decided(head, outcome)
            self._serve()
            self.balance()
        except Exception:  # noqa: BLE001  logged there; whatever it was, the connection must not go on
            self.failed()

    def _decided(self, head: Head, outcome: Grant | Refusal) -> None:
        if isinstance(outcome, Refusal):
            self._phase = _Phase.HEAD
            self.answer(head, answers.refused(outcome))
            return
        self._start(Exchange(self, head, outcome))

    def _start(self, exchange: Exchange | OwnExchange) -> None:
        self._phase = _Phase.EXCHANGE
        self._exchange = exchange
        try:
            exchange.begin()
        except BodyError as error:
            exchange.refuse_body(error)

    # The end.

    def _close(self) -> None:
        """FIN, then reads on for a moment: the reset of an unread socket would destroy the answer on its way."""
        self._phase = _Phase.CLOSING
        self.buffer.take(len(self.buffer))
        self.balance()
        if self.transport.is_closing():
            return
        if self.eof:
            self.transport.close()
            return
        slow = self.transport.get_write_buffer_size() > 0
        self.deadline = time.monotonic() + (self.parts.settings.idle_timeout if slow else LINGER_SECONDS)
        self.transport.write_eof()

    def _drop(self, data: bytes) -> None:
        self._dropped += len(data)
        if self._dropped > LINGER_BYTES:
            self.transport.abort()
