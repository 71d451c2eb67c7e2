"""A client connection that speaks plain HTTP. The gate has read its first head; everything after that happens here."""

from __future__ import annotations

import asyncio
import enum
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Final

import structlog

from cloned_proxy.policy.callers.caller import Caller
from cloned_proxy.proxy.enforce.answers import Answer
from cloned_proxy.proxy.http1.intake import Intake
from cloned_proxy.proxy.http1.underway import Underway
from cloned_proxy.proxy.http1.upstream import PlainPool
from cloned_proxy.proxy.plain.admission import admit, after_breath
from cloned_proxy.proxy.plain.exchange import PlainExchange
from cloned_proxy.proxy.plain.own import OwnExchange
from cloned_proxy.proxy.transport.linger import LINGER_BYTES, LINGER_SECONDS, send_fin
from cloned_proxy.proxy.transport.relay import reset
from cloned_proxy.proxy.transport.settled import has_left, has_more, is_settled, unsent
from cloned_proxy.proxy.tunnel.client import Client
from cloned_proxy.proxy.tunnel.refused_head import answer_to_head, head_caller
from cloned_proxy.proxy.wire.body import BodyError
from cloned_proxy.proxy.wire.head import Head, HeadError
from cloned_proxy.telemetry.events import Kind

_log = structlog.get_logger(__name__)

_NEVER: Final = float("inf")
_TURN: Final = 8
"""Pipelined requests that are answered before the other connections have their turn."""

type Work = Callable[[], Coroutine[None, None, Callable[[], None]]]


class _RequestPhase(enum.Enum):
    HEAD = enum.auto()
    """The next head is read, behind what nobody wanted of the last body."""
    DECIDING = enum.auto()
    EXCHANGE = enum.auto()
    CLOSING = enum.auto()
    """The last byte has been written; what still comes is not looked at."""


class PlainClient(asyncio.Protocol):
    """Serves one request after the other; pipelined bytes wait. Each request is identified and authorised anew."""

    __slots__ = ("_connection", "_dropped", "_exchange", "_head_began", "_phase", "_serving", "_task", "deadline",
                 "eof", "full", "goes_back", "home", "intake", "listener", "pool", "services", "transport")  # fmt: skip

    def __init__(self, home: set[PlainClient], pool: PlainPool, connection: Client) -> None:
        self.services = connection.services
        self.listener = connection.listener
        self.pool = pool
        self.home = home
        self.transport = connection.transport
        self.intake = Intake(connection.transport, connection.services.settings, connection.read_head)
        self.full = False
        """The client does not read what was written for it."""
        self.eof = connection.eof
        self.goes_back = False
        """The native plane would have served the last request, had it come again."""
        self.deadline = _NEVER
        """When the phase must have ended, monotonic; `check` looks at it once a second."""
        self._connection = connection
        self._phase = _RequestPhase.HEAD
        self._exchange: PlainExchange | OwnExchange | None = None
        self._task: asyncio.Task[None] | None = None
        self._dropped = 0
        self._head_began = False
        self._serving = False

    def start(self, head: Head) -> None:
        """Takes over the transport, with the first head read and everything behind it in the gate's buffer."""
        self.home.add(self)
        self.intake.add(self._connection.take())
        self.transport.set_protocol(self)
        self._admit(head)
        self._serve()

    def start_between(self, data: bytes) -> None:
        """Takes over the transport between two requests, with what has come of the next one."""
        self.home.add(self)
        self.intake.begin_between()
        self.intake.add(data)
        self.transport.set_protocol(self)
        self._serve()

    def go_on(self, at: Underway) -> None:
        """Takes over the transport and a request that somebody else has begun to serve."""
        self.home.add(self)
        head = self._connection.read_head(at.head)
        self.intake.begin(head)
        self.intake.body.go_on(at.body)
        self.intake.add(at.unread)
        self.transport.set_protocol(self)
        exchange = PlainExchange(self, head, at.grant.for_request(head.method, head.path))
        self._phase, self._exchange = _RequestPhase.EXCHANGE, exchange
        exchange.go_on(at)
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
        exchange, intake = self._exchange, self.intake
        if self._phase is _RequestPhase.CLOSING:
            self._drop(data)
            return
        if exchange is None:
            intake.add(data)
            self._serve()
        elif len(intake.buffer) or not exchange.pass_request(data):
            intake.add(data)
            exchange.request_bytes()
        self.balance()

    def eof_received(self) -> bool:
        self.eof = True
        if self._exchange is not None:
            self._exchange.client_ended()
        # A client may send all that it has to say, and then FIN: it gets its answers.
        return self._exchange is not None or self._phase is _RequestPhase.DECIDING

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's interface
        self._phase = _RequestPhase.CLOSING
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

    @property
    def source_address(self) -> str:
        return self._connection.source_address

    # For a call that waits for a person.

    @property
    def gone(self) -> bool:
        return self.eof

    def watch(self) -> None:
        """It is read all the time, up to the bound of its buffer."""

    # For the exchange.

    def balance(self) -> None:
        """Reads the client only as fast as what it sends is taken from it."""
        if self._phase is not _RequestPhase.CLOSING:
            self.intake.balance()

    def exchange_ended(self, *, keep: bool) -> None:
        """The last byte of a response has been written."""
        self._exchange = None
        if not keep:
            self._close()
            return
        self._phase = _RequestPhase.HEAD
        self._serve()
        self.balance()

    def answer(self, head: Head, answer: Answer, *, keep: bool = True) -> None:
        """Our own answer to a request; the connection is kept when little or nothing of that is left to read."""
        self._exchange = None
        keep = keep and head.keep_alive and self.intake.body.can_be_skipped and not self.services.stopping()
        self.transport.write(answer.encode(with_body=head.method != "HEAD", keep_alive=keep))
        self.exchange_ended(keep=keep)

    def refuse_head(self, error: HeadError) -> None:
        self._exchange = None
        caller = head_caller(self.services, self.listener, error, self.source_address)
        after_breath(self, caller, partial(self._answer_head, caller, error))

    def _answer_head(self, caller: Caller, error: HeadError) -> None:
        answer = answer_to_head(self.services, caller, error, Kind.HTTP)
        self.transport.write(answer.encode())
        self._close()

    def reset(self) -> None:
        self._exchange = None
        self._phase = _RequestPhase.CLOSING
        reset(self.transport)

    def failed(self) -> None:
        """Called while an unexpected exception is handled."""
        _log.exception("a client connection failed and is closed", listener=self.listener.name)
        if self._exchange is not None:
            self._exchange.cut("internal_error")
        self.reset()

    @staticmethod
    def log_bad_response(problem: str, decision: str) -> None:
        _log.info("an upstream's response was refused", problem=problem, decision=decision)

    def forget(self) -> None:
        self.home.discard(self)
        self.services.forget(self._connection)

    # For the gate.

    @property
    def over(self) -> bool:
        """Whether no request is under way: what was answered may still be on its way, or what comes next."""
        return self._phase in {_RequestPhase.HEAD, _RequestPhase.CLOSING}

    @property
    def quiet(self) -> bool:
        """Whether no request is under way."""
        return self._phase is _RequestPhase.HEAD and not self.intake.expects_more

    @property
    def begun(self) -> bool:
        """Whether a head has begun and is not whole, or the body of a request that is answered is still to come."""
        return self._phase is _RequestPhase.HEAD and self._head_began

    @property
    def quiet_since(self) -> float:
        settings = self.services.settings
        return self.deadline - (settings.head_timeout if self._head_began else settings.keep_alive_timeout)

    def let_go(self) -> None:
        """FIN, to one that is quiet. Who has not got the whole of the last response does get it."""
        # The rest of a body that meets no socket would be answered by a reset, which destroys what was not read yet.
        if is_settled(self.transport) and self.intake.body.complete:
            self._phase = _RequestPhase.CLOSING
            self.transport.close()
        elif not has_more(self.transport):
            self._close()

    def cut(self, cause: str) -> None:
        """Resets the client, and the upstream if there is one, at once."""
        if self._exchange is not None:
            self._exchange.cut(cause)
        if self._task is not None:
            self._task.cancel()
        self.reset()

    def check(self, now: float) -> None:
        """Ends what has taken too long, or whose client has gone unseen."""
        if self._phase is _RequestPhase.CLOSING and not unsent(self.transport):
            self.deadline = min(self.deadline, now + LINGER_SECONDS)  # the longer patience was for what it had to take
        if self.intake.held and has_left(self.transport, half_closed=False):
            self.cut("client_reset")
        elif self._exchange is not None:
            if now >= self._exchange.due:
                self._exchange.timed_out()
        elif now < self.deadline:
            pass
        elif self._phase is _RequestPhase.HEAD and len(self.intake.buffer):
            self.refuse_head(HeadError("the request head did not come in time", status=408))
        elif self._phase is not _RequestPhase.DECIDING:
            self.transport.abort()

    # Heads.

    def _serve(self) -> None:
        """Reads and begins requests until one has to be waited for, or it is another connection's turn."""
        if self._serving:
            return
        self._serving = True
        try:
            for _ in range(_TURN):
                if self._phase is not _RequestPhase.HEAD or self.full or (head := self.intake.next_head()) is None:
                    break
                self._admit(head)
            else:
                asyncio.get_running_loop().call_soon(self._serve)
                return
        except HeadError as error:
            self.refuse_head(error)
        finally:
            self._serving = False
        if self._phase is _RequestPhase.HEAD:
            self._wait_for_more()

    def _admit(self, head: Head) -> None:
        self.goes_back = False
        self.intake.begin(head)
        self.deadline = _NEVER
        admit(self, head)

    def _wait_for_more(self) -> None:
        if self.eof:
            self._close()
            return
        settings = self.services.settings
        began = self.intake.expects_more
        if not began and self.goes_back and self._gone_back():
            return
        if not began:
            self.deadline = time.monotonic() + settings.keep_alive_timeout
        elif self.deadline is _NEVER or not self._head_began:
            self.deadline = time.monotonic() + settings.head_timeout
        self._head_began = began

    def _gone_back(self) -> bool:
        """Whether the native plane has the connection now, on which nothing is under way, and this one has left it."""
        transport = self.transport
        if transport.is_closing() or transport.get_write_buffer_size() or self.services.stopping():
            return False
        if not self.services.give_back(self._connection):
            return False
        self._phase = _RequestPhase.CLOSING
        self.forget()
        return True

    # For `admission`.

    def wait_for(self, work: Work) -> None:
        """What `work` returns is done when it has ended; until then what the client sends is kept."""
        self._phase = _RequestPhase.DECIDING
        self._task = asyncio.get_running_loop().create_task(self._waited_for(work))

    async def _waited_for(self, work: Work) -> None:
        try:
            then = await work()
            self._task = None
            then()
            self._serve()
            self.balance()
        except Exception:  # noqa: BLE001  logged there; whatever it was, the connection must not go on
            self.failed()

    def begin(self, exchange: PlainExchange | OwnExchange) -> None:
        self._phase = _RequestPhase.EXCHANGE
        self._exchange = exchange
        try:
            exchange.begin()
        except BodyError as error:
            exchange.refuse_body(error)

    # The end.

    def _close(self) -> None:
        """FIN, then reads on for a moment: the reset of an unread socket would destroy the answer on its way."""
        self._phase = _RequestPhase.CLOSING
        self.intake.close()
        if self.transport.is_closing():
            return
        slow = self.transport.get_write_buffer_size() > 0
        self.deadline = time.monotonic() + (self.services.settings.idle_timeout if slow else LINGER_SECONDS)
        if self.eof:
            self.transport.close()  # behind what waits for the client, which may take none of it
        else:
            send_fin(self.transport)

    def _drop(self, data: bytes) -> None:
        self._dropped += len(data)
        if self._dropped > LINGER_BYTES:
            self.transport.abort()
