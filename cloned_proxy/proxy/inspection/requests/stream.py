"""One request in opened TLS: its decision, its record, its budget, and both of its bodies, in every version of HTTP.

What its client sees of it is for a subclass to write (`ClientEnd`): `answering.Http2Stream`, or `exchange.Exchange` for
HTTP/1.1.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

import structlog
from h2.exceptions import H2Error

from cloned_proxy.policy.terms.vocabulary import Reason
from cloned_proxy.proxy.enforce import answers
from cloned_proxy.proxy.enforce.answers import UpstreamFailure
from cloned_proxy.proxy.enforce.tunnels import response_seconds
from cloned_proxy.proxy.grants.grant import Grant
from cloned_proxy.proxy.http1.outgoing import longest_idle
from cloned_proxy.proxy.inspection.connections import heads
from cloned_proxy.proxy.inspection.connections.pipe import BrokenBodyError, Pipe, Trailers
from cloned_proxy.proxy.inspection.examining.examiners import Admitted, Filters, ResponseSeen, UnfitError
from cloned_proxy.proxy.inspection.requests.admission import TurnedAway
from cloned_proxy.proxy.inspection.requests.client_end import ClientEnd, OpenedClient
from cloned_proxy.proxy.inspection.upstream.upstream import (
    UpstreamExchange,
    UpstreamLostError,
    UpstreamRequest,
    send_body,
)
from cloned_proxy.proxy.upstream.dial import ExhaustedError
from cloned_proxy.proxy.wire.fields import request_fields
from cloned_proxy.proxy.wire.head import Head

_log = structlog.get_logger(__name__)

_HTTPS_PORT: Final = 443
_KEPT: Final = 65_536
"""Bytes of a body that are kept while the request may be sent again. A longer one is not."""


class Stream(ClientEnd):
    """From its head to its end: one task."""

    __slots__ = ("_answered", "_began", "_client", "_head", "_passed", "_timer", "cause", "grant", "last_byte", "pipe",
                 "task")  # fmt: skip

    def __init__(self, client: OpenedClient, head: Head, pipe: Pipe) -> None:
        """`pipe` brings the body of the request."""
        self._client: Final = client
        self._head: Final = head
        self._timer: asyncio.TimerHandle | None = None
        self._passed: bytearray | None = bytearray()
        """What was sent of the request's body, while it is little and may be wanted again."""
        self._began = False
        """Whether a part of the response has been sent."""
        self._answered = False
        """Whether all of it has."""
        self.pipe = pipe
        self.grant: Grant | None = None
        self.cause = ""
        """Why it ended early, for the record."""
        self.last_byte = time.monotonic()
        self.task: asyncio.Task[None] | None = None

    # For a request that waits for a person.

    @property
    def gone(self) -> bool:
        return bool(self.cause)

    def watch(self) -> None:  # nothing has to be done, in every version
        """That the client leaves is noticed without it, as its connection is read all the time.

        One of HTTP/1.1 is not read while more than 64 KiB of its body wait, and is looked at each second then.
        """

    # The life of the stream.

    async def run(self) -> None:
        try:
            await self._run()
        except asyncio.CancelledError:
            self._break_off()
        except H2Error:
            self.cause = self.cause or "client_reset"
            self._break_off()
        except Exception:  # noqa: BLE001  logged; whatever it was, the request must not go on
            _log.exception("an inspected request failed and is ended")
            self.cause = self.cause or Reason.INTERNAL_ERROR.value
            await self._say(answers.unavailable())
        else:
            await self._let_finish()
        finally:
            self._disarm()
            self._leave()

    async def _run(self) -> None:
        outcome = await self._client.services.admission.admit(self._client.tunnel, self._head, self)
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
        except ExhaustedError as error:
            self._note("no upstream could be dialled", error)
            self.cause = self.cause or Reason.INTERNAL_ERROR.value
            await self._say(answers.unavailable())
        except BrokenBodyError:
            self.cause = self.cause or "client_reset"
        except (asyncio.CancelledError, H2Error):
            self.cause = self.cause or "client_reset"
            raise
        except Exception:
            self.cause = self.cause or Reason.INTERNAL_ERROR.value
            raise
        finally:
            self._client.services.enforcer.finish(grant, self.cause or "closed")

    def _note(self, what: str, error: Exception) -> None:
        _log.info(what, problem=str(error), decision=self.grant.id if self.grant is not None else None)

    async def _carry(self, admitted: Admitted, filters: Filters | None) -> None:
        """Once more on another connection where the upstream has not read the request (RFC 9113, section 8.7)."""
        outgoing = self._outgoing(admitted, filters)
        try:
            await self._exchange(admitted, filters, outgoing, again=False)
        except UpstreamLostError as error:
            if self._began or not error.unprocessed or self._passed is None:
                raise
            await self._exchange(admitted, filters, outgoing, again=True)

    async def _exchange(
        self, admitted: Admitted, filters: Filters | None, outgoing: UpstreamRequest, *, again: bool
    ) -> None:
        idle = -1.0 if again else longest_idle(admitted.head)
        exchange = (await self._client.pool.connection(admitted.grant, idle)).open(outgoing)
        sending: asyncio.Task[None] | None = None
        try:
            if outgoing.ended:
                self._expect_response(exchange)
            else:
                loop = asyncio.get_running_loop()
                sending = asyncio.Task(self._send_body(exchange, filters), loop=loop, eager_start=True)
            seen = await exchange.head
            self._passed = None
            self._disarm()
            await self._respond(admitted, seen, exchange)
            if sending is not None and not sending.done():
                await self._see_upload_off(sending, exchange)
        finally:
            if sending is not None:
                sending.cancel()
            exchange.close()

    def _outgoing(self, admitted: Admitted, filters: Filters | None) -> UpstreamRequest:
        head, host = admitted.forwarded, admitted.grant.decision.host
        if host is None:
            raise ValueError("a grant without a canonical host")
        fields = request_fields(head, host, default_port=_HTTPS_PORT, injection=admitted.injection)
        if filters is not None and filters.resizes:
            fields = tuple(field for field in fields if field[0] != b"content-length")
        ended = head.content_length is None and not head.chunked
        trailers = self.passes_trailers and heads.wants_trailers(head)
        return UpstreamRequest(head, host, fields, admitted.injection, ended, trailers, self._continue)

    # The request's body.

    async def _send_body(self, exchange: UpstreamExchange, filters: Filters | None) -> None:
        try:
            if self._passed:
                await exchange.send(bytes(self._passed))
            await send_body(self.pipe, exchange, filters, self._went_up)
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

    def _went_up(self, piece: bytes) -> None:
        self.last_byte = time.monotonic()
        if self.grant is None:
            raise PermissionError("a body without a grant")
        self.grant.charge.up(len(piece))
        if self._passed is not None:
            self._passed += piece
            if len(self._passed) > _KEPT:
                self._passed = None

    # The response.

    def _expect_response(self, exchange: UpstreamExchange) -> None:
        self._disarm()
        if exchange.head.done() or self.grant is None:
            return
        seconds = response_seconds(self.grant.decision, self._client.services.settings.response_timeout)
        late = UpstreamLostError("no response came in time", failure=UpstreamFailure("response", timed_out=True))
        self._timer = asyncio.get_running_loop().call_later(seconds, exchange.fail, late)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _respond(self, admitted: Admitted, seen: ResponseSeen, exchange: UpstreamExchange) -> None:
        filters = self._client.services.admission.examine(admitted, seen)
        if filters is None and seen.has_body and exchange.body.ended and not exchange.body.trailers:
            await self._respond_at_once(admitted.grant, seen, exchange)
            return
        if filters is not None and filters.limit:
            try:
                body = await self._whole(filters, seen, exchange)
                self._send_head(seen, len(body) if seen.has_body else seen.length)
                admitted.grant.charge.down(len(body))
                await self._send_data(body)
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
        else:
            self._send_head(seen, seen.length)
            grant.charge.down(len(body))
            await self._send_data(body, end=True)
        self._answered = True

    async def _whole(self, filters: Filters, seen: ResponseSeen, exchange: UpstreamExchange) -> bytes:
        if seen.has_body and seen.length is not None and seen.length > filters.limit:
            raise filters.too_long()
        held = bytearray()
        while (piece := await exchange.body.take()) is not None:
            held += piece
            self.last_byte = time.monotonic()
            if len(held) > filters.limit:
                raise filters.too_long()
            filters.came(len(held))
            await filters.room()
        return await filters.whole(bytes(held))

    async def _pass_on(self, grant: Grant, piece: bytes) -> None:
        if piece:
            grant.charge.down(len(piece))
            await self._send_data(piece)
            self.last_byte = time.monotonic()

    async def _finish(self, trailers: Trailers, filters: Filters | None) -> None:
        await self._send_end(list(trailers) if filters is None else filters.trailers(list(trailers)))
        self._answered = True

    # Other ends.

    def cancel(self, cause: str) -> None:
        """Ends it from outside; its neighbours go on."""
        self.cause = self.cause or cause
        if self.task is not None:
            self.task.cancel()
