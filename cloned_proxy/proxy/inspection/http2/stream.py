"""One request of an HTTP/2 client: its decision, its record, its budget, and both of its bodies."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Final

import structlog
from h2.errors import ErrorCodes
from h2.exceptions import H2Error

from cloned_proxy.policy.vocabulary import Reason
from cloned_proxy.proxy import answers
from cloned_proxy.proxy.answers import UpstreamFailure
from cloned_proxy.proxy.fields import request_fields
from cloned_proxy.proxy.grant import Grant
from cloned_proxy.proxy.head import Head
from cloned_proxy.proxy.inspection.admission import TurnedAway
from cloned_proxy.proxy.inspection.examiners import Admitted, Filters, ResponseSeen, UnfitError
from cloned_proxy.proxy.inspection.http2 import grpc, heads
from cloned_proxy.proxy.inspection.http2.answering import Answering
from cloned_proxy.proxy.inspection.http2.pipe import BrokenBodyError, Trailers
from cloned_proxy.proxy.inspection.http2.upstream import (
    Outgoing,
    UpstreamExchange,
    UpstreamLostError,
    send_body,
)
from cloned_proxy.proxy.tunnels import response_seconds

if TYPE_CHECKING:
    from cloned_proxy.proxy.inspection.http2.front import Front

_log = structlog.get_logger(__name__)

_HTTPS_PORT: Final = 443


class Stream(Answering):
    """From its HEADERS to its end: one task."""

    __slots__ = ("_timer", "cause", "grant", "last_byte", "task")

    def __init__(self, front: Front, number: int, head: Head) -> None:
        super().__init__(front, number, head)
        self._timer: asyncio.TimerHandle | None = None
        self.grant: Grant | None = None
        self.cause = ""
        """Why it ended early, for the record."""
        self.last_byte = time.monotonic()
        self.task: asyncio.Task[None] | None = None

    # For a request that waits for a person.

    @property
    def gone(self) -> bool:
        return bool(self.cause)

    def watch(self) -> None:
        """Whether the client resets the stream is seen anyway: its connection is read all the time."""

    # Its life.

    async def run(self) -> None:
        try:
            await self._run()
        except asyncio.CancelledError:
            self._reset(ErrorCodes.CANCEL)
        except H2Error:
            self.cause = self.cause or "client_reset"
        except Exception:  # noqa: BLE001  logged; whatever it was, the request must not go on
            _log.exception("an inspected request failed and is ended")
            self.cause = self.cause or Reason.INTERNAL_ERROR.value
            await self._say(answers.unavailable())
        else:
            await self._let_finish()
        finally:
            self._disarm()
            self.window.close()
            self._front.forget(self)

    async def _run(self) -> None:
        outcome = await self._front.parts.admission.admit(self._front.tunnel, self._head, self)
        if isinstance(outcome, TurnedAway):
            await self._say(outcome.answer)
            return
        admitted, filters = outcome
        self.grant = grant = admitted.grant
        if not grant.decision.passes:
            raise PermissionError("a request without a grant")
        try:
            await self._carry(admitted, filters)
        except UpstreamLostError as error:
            self._note("an upstream could not be used", error)
            self.cause = self.cause or error.failure.cause
            await self._say(answers.failed(error.failure, grant.decision, grant.id))
        except UnfitError as error:
            self._note("what passes was refused", error)
            self.cause = self.cause or error.cause
            await self._say(error.answer)
        except BrokenBodyError:
            self.cause = self.cause or "client_reset"
        except (asyncio.CancelledError, H2Error):
            self.cause = self.cause or "client_reset"
            raise
        except Exception:
            self.cause = self.cause or Reason.INTERNAL_ERROR.value
            raise
        finally:
            self._front.parts.enforcer.finish(grant, self.cause or "closed")

    def _note(self, what: str, error: Exception) -> None:
        _log.info(what, problem=str(error), decision=self.grant.id if self.grant is not None else None)

    async def _carry(self, admitted: Admitted, filters: Filters | None) -> None:
        """Once more on another connection where the upstream has not read the request (RFC 9113, section 8.7)."""
        outgoing = self._outgoing(admitted, filters)
        try:
            await self._exchange(admitted, filters, outgoing, again=False)
        except UpstreamLostError as error:
            if self._began or not error.unprocessed or filters is not None or not self.window.pipe.rewind():
                raise
            await self._exchange(admitted, filters, outgoing, again=True)

    async def _exchange(self, admitted: Admitted, filters: Filters | None, outgoing: Outgoing, *, again: bool) -> None:
        exchange = (await self._front.pool.connection(admitted.grant, again=again)).open(outgoing)
        sending: asyncio.Task[None] | None = None
        try:
            if outgoing.ended:
                self._expect_response(exchange)
            else:
                loop = asyncio.get_running_loop()
                sending = asyncio.Task(self._send_body(exchange, filters), loop=loop, eager_start=True)
            seen = await exchange.head
            self.window.pipe.forget()
            self._disarm()
            await self._respond(admitted, seen, exchange)
        finally:
            if sending is not None:
                sending.cancel()
            exchange.close()

    def _outgoing(self, admitted: Admitted, filters: Filters | None) -> Outgoing:
        head, host = admitted.forwarded, admitted.grant.decision.host
        if host is None:
            raise ValueError("a grant without a canonical host")
        fields = request_fields(head, host, default_port=_HTTPS_PORT, injection=admitted.injection)
        if filters is not None and filters.resizes:
            fields = tuple(field for field in fields if field[0] != b"content-length")
        block = heads.request_block(head, host, fields, admitted.injection)
        ended = head.content_length is None and not head.chunked
        return Outgoing(head, fields, block, ended, self._continue)

    # The request's body.

    async def _send_body(self, exchange: UpstreamExchange, filters: Filters | None) -> None:
        try:
            await send_body(self.window.pipe, exchange, filters, self._went_up)
        except UpstreamLostError as error:
            exchange.fail(error)
        except UnfitError as error:
            # Before the upstream has the whole of it. Whoever waits for the response says so.
            if not exchange.head.done():
                exchange.head.set_exception(error)
            exchange.body.break_off(error)
        except BrokenBodyError:
            self.cancel("client_reset")
        except Exception:  # noqa: BLE001  logged; whatever it was, the request must not go on
            _log.exception("the body of an inspected request failed")
            self.cancel(Reason.INTERNAL_ERROR.value)
        else:
            self._expect_response(exchange)

    def _went_up(self, count: int) -> None:
        self.last_byte = time.monotonic()
        if self.grant is None:
            raise PermissionError("a body without a grant")
        self.grant.charge.up(count)

    def _continue(self) -> None:
        """The upstream wants the body that the client announced with `Expect`."""
        with contextlib.suppress(H2Error):
            self._front.h2.send_headers(self.id, [(b":status", b"100")])
            self._front.flush_soon()

    # The response.

    def _expect_response(self, exchange: UpstreamExchange) -> None:
        if exchange.head.done() or self.grant is None:
            return
        seconds = response_seconds(self.grant.decision, self._front.parts.settings.response_timeout)
        late = UpstreamLostError("no response came in time", failure=UpstreamFailure("response", timed_out=True))
        self._timer = asyncio.get_running_loop().call_later(seconds, exchange.fail, late)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _respond(self, admitted: Admitted, seen: ResponseSeen, exchange: UpstreamExchange) -> None:
        filters = self._front.parts.admission.examine(admitted, seen)
        if filters is None and exchange.body.ended and not exchange.body.trailers:
            await self._respond_at_once(admitted.grant, seen, exchange)
            return
        if filters is not None and filters.limit:
            try:
                body = await self._whole(filters, seen, exchange)
                self._send_head(seen, len(body) if seen.has_body else seen.length)
                admitted.grant.charge.down(len(body))
                await self._front.send_data(self.id, body)
            finally:
                filters.came(0)
            await self._finish(exchange.body.trailers, filters)
            return
        if not seen.has_body:
            self._send_head(seen, seen.length, end=True)
            self._answered = True
            return
        self._send_head(seen, None if filters is not None and filters.resizes else seen.length)
        while (piece := await exchange.body.take()) is not None:
            await self._pass_on(admitted.grant, piece if filters is None else filters.feed(piece))
        if filters is not None:
            await self._pass_on(admitted.grant, filters.rest())
        await self._finish(exchange.body.trailers, filters)

    async def _respond_at_once(self, grant: Grant, seen: ResponseSeen, exchange: UpstreamExchange) -> None:
        """A response that has come as a whole goes out as a whole."""
        body = exchange.body.take_now()
        if not body:
            self._send_head(seen, seen.length, end=True)
            self._answered = True
            return
        self._send_head(seen, seen.length)
        grant.charge.down(len(body))
        await self._front.send_data(self.id, body, end=True)
        self._answered = True

    async def _whole(self, filters: Filters, seen: ResponseSeen, exchange: UpstreamExchange) -> bytes:
        if seen.has_body and seen.length is not None and seen.length > filters.limit:
            raise filters.too_long()
        held = bytearray()
        while (piece := await exchange.body.take()) is not None:
            held += piece
            if len(held) > filters.limit:
                raise filters.too_long()
            filters.came(len(held))
            await filters.room()
        return await filters.whole(bytes(held))

    def _send_head(self, seen: ResponseSeen, length: int | None, *, end: bool = False) -> None:
        self._began = True
        self.last_byte = time.monotonic()
        self._front.h2.send_headers(self.id, heads.response_block(seen, length), end_stream=end)
        self._front.flush_soon()

    async def _pass_on(self, grant: Grant, piece: bytes) -> None:
        if piece:
            grant.charge.down(len(piece))
            await self._front.send_data(self.id, piece)
            self.last_byte = time.monotonic()

    async def _finish(self, trailers: Trailers, filters: Filters | None) -> None:
        shown = list(trailers) if filters is None else filters.trailers(list(trailers))
        if shown:
            self._front.h2.send_headers(self.id, shown, end_stream=True)
            self._front.flush_soon()
        else:
            await self._front.send_data(self.id, b"", end=True)
        self._answered = True

    # Other ends.

    def cancel(self, cause: str) -> None:
        """Ends it from outside; its neighbours go on."""
        self.cause = self.cause or cause
        if self.task is not None:
            self.task.cancel()

    def revoke(self, reason: str) -> None:
        """What the policy in force no longer lets pass. A gRPC client is told why; any other sees a broken stream."""
        if self._grpc and not self._answered and not self.cause:
            with contextlib.suppress(H2Error):
                block = list(grpc.revoked(reason))
                if not self._began:
                    block = [(b":status", b"200"), (b"content-type", b"application/grpc"), *block]
                self._front.h2.send_headers(self.id, block, end_stream=True)
                self._answered = True
        self.cancel(f"revoked:{reason}")
