"""A request to `http://cloned.internal`: read to its end and answered here. Nothing of it is looked up or dialled."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from cloned_proxy.policy.callers.caller import Caller, IdentityRefusal, Principal
from cloned_proxy.policy.terms.decision import Request
from cloned_proxy.policy.terms.vocabulary import OWN_HOST, Reason
from cloned_proxy.proxy.enforce import answers
from cloned_proxy.proxy.enforce.answers import Answer
from cloned_proxy.proxy.own.requests_api import RequestsApi, too_large, too_slow
from cloned_proxy.proxy.plain.kept_client import NEVER
from cloned_proxy.proxy.tunnel.closing import ClosingOnFailure
from cloned_proxy.proxy.wire.body import BodyError
from cloned_proxy.proxy.wire.head import Head, HeadError
from cloned_proxy.store.approvals.egress_request import MAX_BODY
from cloned_proxy.telemetry.events import Kind

if TYPE_CHECKING:
    from cloned_proxy.proxy.plain.client import PlainClient

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_LONGEST: Final = len(OWN_HOST) + 1


def is_own(host: str) -> bool:
    """Whether a host as written is ours: heads are ASCII, so only letter case and a trailing dot can differ."""
    return len(host) in (_LONGEST - 1, _LONGEST) and host.lower().removesuffix(".") == OWN_HOST


class OwnExchange:
    """In the place of a `PlainExchange`, for the client connection that owns it."""

    __slots__ = ("_api", "_body", "_caller", "_client", "_head", "_read", "_task", "due")

    def __init__(self, client: PlainClient, head: Head, caller: Caller, api: RequestsApi) -> None:
        self._client = client
        self._head = head
        self._caller = caller
        self._api = api
        self._body = client.intake.body
        self._read = bytearray()
        self._task: asyncio.Task[None] | None = None
        self.due = NEVER
        """When the request must have been read, monotonic."""

    def begin(self) -> None:
        head, refusal = self._head, self._refused_caller()
        if refusal is None and isinstance(self._caller, Principal):
            refusal = self._api.refusal(self._caller.tool or "", head.method, head.path, head.content_length)
        if refusal is not None:
            self._client.answer(head, refusal)
            return
        self.due = self._client.read_own_body()
        if self._body.may_never_come:
            self._client.transport.write(_CONTINUE)
        self.request_bytes()

    def _refused_caller(self) -> Answer | None:
        """Callers that nobody can name have nothing to ask; refused on record, as everywhere."""
        caller, head = self._caller, self._head
        if isinstance(caller, Principal) and caller.tool is not None:
            return None
        reason = caller.reason if isinstance(caller, IdentityRefusal) else Reason.IDENTITY_MISSING
        request = Request(head.host, head.port, head.method, head.path)
        return answers.refused(self._client.services.enforcer.refuse(caller, request, Kind.HTTP, reason))

    # What the client connection asks of an exchange.

    def pass_request(self, data: bytes) -> bool:  # noqa: ARG002  nothing is passed by
        return False

    def request_bytes(self) -> None:
        """Takes what there is of the body. Raises BodyError."""
        if self._task is not None:
            return
        while (piece := self._body.read()) is not None:
            if not piece:
                return
            self._read += piece
            if len(self._read) > MAX_BODY:
                self._finish(too_large(), keep=False)
                return
        self.due = NEVER
        self._client.own_body_read()
        self._task = asyncio.get_running_loop().create_task(self._answer())

    async def _answer(self) -> None:
        caller, head = self._caller, self._head
        with ClosingOnFailure(self._client):
            if isinstance(caller, Principal):
                self._finish(await self._api.answer(caller, head.method, head.path, bytes(self._read)))

    def _finish(self, answer: Answer, *, keep: bool = True) -> None:
        client, head = self._client, self._head
        self.due = NEVER
        keep = keep and head.keep_alive and not client.services.stopping()
        client.transport.write(answer.encode(with_body=head.method != "HEAD", keep_alive=keep))
        client.exchange_ended(keep=keep)

    def refuse_body(self, error: BodyError) -> None:
        head = self._head
        request = Request(head.host, head.port, head.method, head.path)
        self._client.refuse_head(HeadError(str(error)).about(request, head.fields))

    def client_ended(self) -> None:
        """The answer to a whole request is on its way, in milliseconds; to a part of one there is none."""
        if not self._body.complete:
            self._client.cut("client_reset")

    def client_drained(self) -> None:
        """What is written is less than any buffer."""

    def timed_out(self) -> None:
        """The body did not come in time."""
        self._finish(too_slow(), keep=False)

    def cut(self, cause: str) -> None:  # noqa: ARG002  there is no flow to record the end of
        if self._task is not None:
            self._task.cancel()
