"""The upstream connections of one tunnel: all go to its CONNECT host, each to an address that a grant has checked."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from OpenSSL import SSL

from cloned_proxy.policy.terms.rule import Address
from cloned_proxy.proxy.enforce import answers
from cloned_proxy.proxy.enforce.answers import UpstreamFailure
from cloned_proxy.proxy.grants.grant import Grant
from cloned_proxy.proxy.inspection.connections.tls import TlsStream
from cloned_proxy.proxy.inspection.upstream.reach import reach
from cloned_proxy.proxy.inspection.upstream.upstream import Upstream, UpstreamLostError, UpstreamServices
from cloned_proxy.proxy.inspection.upstream.upstream_h1 import UpstreamH1
from cloned_proxy.proxy.inspection.upstream.upstream_h2 import UpstreamH2
from cloned_proxy.proxy.upstream.dial import DialError

_HTTP2: Final = b"h2"
_REFUSED: Final = "no application protocol"
"""In the name of the alert of a server that speaks none of the versions that it was asked for (RFC 7301)."""


class _RefusedProtocolError(UpstreamLostError):
    """The server speaks none of the versions that it was asked for."""


class Pool:
    """One for each client connection."""

    def __init__(self, services: UpstreamServices, tunnel: Grant, *, http2: bool) -> None:
        """With `http2` that is asked for first; else HTTP/1.1, which a WebSocket needs, and HTTP/2 where it is refused.

        That refusal is the alert no_application_protocol, or in a handshake without a version a first frame of HTTP/2.
        """
        self._services: Final = services
        self._asks_http2: Final = http2
        self._tunnel: Final = tunnel
        self._open: dict[Upstream, frozenset[Address]] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._first: asyncio.Task[Upstream] | None = None
        """A dial whose outcome the others wait for, because it may serve them all."""
        self._speaks_h1 = not http2
        self._only_http2 = False

    async def connection(self, grant: Grant, longest_idle: float) -> Upstream:
        """One that a request may begin on at once, before anything else is awaited.

        Of those that are open only one that has been idle for at most `longest_idle` seconds; below 0 a new one,
        because another has failed the request. Raises UpstreamLostError, ExhaustedError.
        """
        _check(grant, self._tunnel)
        while True:
            if (found := self._usable(grant, longest_idle)) is not None:
                return found
            if self._speaks_h1:
                return await self._connect(grant)
            first = self._first
            mine = first is None
            if first is None:
                first = self._first = asyncio.create_task(self._connect(grant))
                first.add_done_callback(self._first_done)
                longest_idle = max(longest_idle, 0.0)
            await asyncio.shield(first)
            if mine and self._usable(grant, longest_idle) is None:
                raise UpstreamLostError("the upstream takes no stream on a new connection")

    def _usable(self, grant: Grant, longest_idle: float) -> Upstream | None:
        """What a grant does not cover is not used for it, though it is open: the name may have moved meanwhile."""
        allowed = set(grant.addresses)
        for upstream, addresses in self._open.items():
            if upstream.free and addresses <= allowed and upstream.idle_for() <= longest_idle:
                return upstream
        return None

    def _first_done(self, first: asyncio.Task[Upstream]) -> None:
        self._first = None
        if not first.cancelled():
            first.exception()  # whoever waited has it

    async def _connect(self, grant: Grant) -> Upstream:
        settings = self._services.settings
        self._close_idle()
        try:
            tls = await self._reached(grant)
        except _RefusedProtocolError:
            self._only_http2 = True
            tls = await self._reached(grant)
        upstream: Upstream
        if tls.protocol == _HTTP2 or self._only_http2:
            upstream = UpstreamH2(tls, settings)
        else:
            upstream, self._speaks_h1 = UpstreamH1(tls, settings, speaks_http2=self._found_http2), True
        self._open[upstream] = frozenset(grant.addresses)
        task = asyncio.Task(upstream.run(), loop=asyncio.get_running_loop(), eager_start=True)
        self._running.add(task)
        task.add_done_callback(lambda ended: self._forget(upstream, ended))
        return upstream

    def _found_http2(self) -> None:
        self._only_http2 = True

    def _close_idle(self) -> None:
        """Closes connections that are too old for a request, which would pile up beside the new one that it gets."""
        for upstream in tuple(self._open):
            if upstream.free and upstream.idle_for():
                upstream.close()

    async def _reached(self, grant: Grant) -> TlsStream:
        try:
            reader, writer = await reach(grant, self._services.ways, self._services.metrics)
        except DialError as error:
            raise UpstreamLostError(str(error), failure=answers.not_dialled(error)) from None
        try:
            return await self._secured(grant, reader, writer)
        except BaseException:
            writer.transport.abort()
            raise

    async def _secured(self, grant: Grant, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> TlsStream:
        host = grant.decision.host
        if host is None:
            raise ValueError("a grant without a canonical host")
        session = self._services.sessions.connecting(host.text, http2=self._asks_http2, only_http2=self._only_http2)
        tls = TlsStream(session, reader, writer)
        try:
            async with asyncio.timeout(self._services.settings.connect_timeout):
                await tls.handshake()
        except TimeoutError:
            raise UpstreamLostError("a slow handshake", failure=UpstreamFailure("tls", timed_out=True)) from None
        except (SSL.Error, OSError, EOFError) as error:
            failure = UpstreamFailure("tls")
            if _REFUSED in str(error) and not (self._asks_http2 or self._only_http2):
                raise _RefusedProtocolError(repr(error), failure=failure) from None
            raise UpstreamLostError(repr(error), failure=failure) from None
        return tls

    def _forget(self, upstream: Upstream, task: asyncio.Task[None]) -> None:
        self._open.pop(upstream, None)
        self._running.discard(task)
        if not task.cancelled():
            task.exception()

    def close(self) -> None:
        if self._first is not None:
            self._first.cancel()
        for upstream in tuple(self._open):
            with contextlib.suppress(OSError):
                upstream.abort()
        for task in tuple(self._running):
            task.cancel()


def _check(grant: Grant, tunnel: Grant) -> None:
    """The last line: only the grant of a request, to the target of its tunnel, permits a dial."""
    asked, opened = grant.decision, tunnel.decision
    if not asked.passes or not grant.charge.open or asked.host is None:
        raise PermissionError("a dial without a grant")
    if (asked.host, asked.request.port) != (opened.host, opened.request.port):
        raise PermissionError("a dial that its grant does not permit")
