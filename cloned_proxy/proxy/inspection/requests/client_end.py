"""What the client of a request in opened TLS sees of it: for each version of HTTP to say in its own way."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import ClassVar, Protocol

from cloned_proxy.proxy.enforce.answers import Answer
from cloned_proxy.proxy.grants.grant import Grant
from cloned_proxy.proxy.inspection.connections.pipe import Trailers
from cloned_proxy.proxy.inspection.examining.examiners import ResponseSeen
from cloned_proxy.proxy.inspection.requests.services import InspectionServices
from cloned_proxy.proxy.inspection.upstream.pool import Pool
from cloned_proxy.proxy.inspection.upstream.upstream import UpstreamExchange


class OpenedClient(Protocol):
    """The connection of a client, as its requests see it."""

    @property
    def services(self) -> InspectionServices: ...

    @property
    def tunnel(self) -> Grant:
        """The grant of the CONNECT whose TLS is opened."""

    @property
    def pool(self) -> Pool: ...


class ClientEnd(ABC):
    """The client's end of a `Stream`. BrokenBodyError or H2Error say that nobody is there any more."""

    __slots__ = ()

    passes_trailers: ClassVar[bool]
    """Whether the client gets those of a response."""

    @abstractmethod
    async def _say(self, answer: Answer) -> None:
        """In the proxy's own name, where nothing of a response has been sent; otherwise it must not look whole."""

    @abstractmethod
    def _break_off(self) -> None:
        """Ends an answer that was cancelled: what has been sent must not look whole."""

    @abstractmethod
    async def _let_finish(self) -> None:
        """Follows a response that has ended in order."""

    @abstractmethod
    def _leave(self) -> None:
        """The very last step: its connection forgets it."""

    @abstractmethod
    def _continue(self) -> None:
        """The upstream wants the body that the client announced with `Expect`."""

    @abstractmethod
    def _send_head(self, seen: ResponseSeen, length: int | None, *, end: bool = False) -> None:
        """`length` is that of the body, None where nobody knows; `end` for a response that has none."""

    @abstractmethod
    async def _send_data(self, data: bytes, *, end: bool = False) -> None:
        """Sends a piece as fast as the client takes it."""

    @abstractmethod
    async def _send_end(self, trailers: Trailers) -> None:
        """Ends the body behind its last piece."""

    @abstractmethod
    async def _see_upload_off(self, sending: asyncio.Task[None], exchange: UpstreamExchange) -> None:
        """The response is complete, and `sending` of the request's body may still be under way (RFC 9112, 9.5)."""
