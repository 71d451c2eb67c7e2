"""The upstream connections of one tunnel: all go to its CONNECT host, each to an address that a grant has checked."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from OpenSSL import SSL

from cloned_proxy.policy.rule import Address
from cloned_proxy.proxy import answers
from cloned_proxy.proxy.answers import UpstreamFailure
from cloned_proxy.proxy.dial import DialError, ExhaustedError
from cloned_proxy.proxy.grant import Grant
from cloned_proxy.proxy.inspection.http2.tls import TlsStream
from cloned_proxy.proxy.inspection.http2.upstream import Upstream, UpstreamLostError, UpstreamParts
from cloned_proxy.proxy.inspection.http2.upstream_h1 import UpstreamH1
from cloned_proxy.proxy.inspection.http2.upstream_h2 import UpstreamH2
from cloned_proxy.proxy.inspection.reach import reach

_HTTP2: Final = b"h2"
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""RFC 9110, section 9.2.2: what may be sent twice, and so may meet a connection that is about to be closed."""


class Pool:
    """One for each client connection."""

    def __init__(self, parts: UpstreamParts, tunnel: Grant) -> None:
        self._parts: Final = parts
        self._tunnel: Final = tunnel
        self._open: dict[Upstream, frozenset[Address]] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._first: asyncio.Task[Upstream] | None = None
        """A dial whose outcome the others wait for, because it may serve them all."""
        self._speaks_h1 = False

    async def connection(self, grant: Grant, *, again: bool = False) -> Upstream:
        """One that a request may begin on at once, before anything else is awaited. Raises UpstreamLostError.

        `again`: a new one, because another has failed this request.
        """
        _check(grant, self._tunnel)
        while True:
            if not again and (found := self._usable(grant)) is not None:
                return found
            if self._speaks_h1:
                return await self._connect(grant)
            first = self._first
            mine = first is None
            if first is None:
                first = self._first = asyncio.create_task(self._connect(grant))
                first.add_done_callback(self._first_done)
                again = False
            await asyncio.shield(first)
            if mine and self._usable(grant) is None:
                raise UpstreamLostError("the upstream takes no stream on a new connection")

    def _usable(self, grant: Grant) -> Upstream | None:
        """What a grant does not cover is not used for it, though it is open: the name may have moved meanwhile."""
        allowed, repeatable = set(grant.addresses), grant.decision.request.method in _SAFE
        for upstream, addresses in self._open.items():
            if upstream.free and addresses <= allowed and (repeatable or upstream.fresh):
                return upstream
        return None

    def _first_done(self, first: asyncio.Task[Upstream]) -> None:
        self._first = None
        if not first.cancelled():
            first.exception()  # whoever waited has it

    async def _connect(self, grant: Grant) -> Upstream:
        settings = self._parts.settings
        try:
            reader, writer = await reach(grant, self._parts.ways, self._parts.metrics)
        except DialError as error:
            raise UpstreamLostError(str(error), failure=answers.not_dialled(error)) from None
        except ExhaustedError as error:
            raise UpstreamLostError(str(error), failure=UpstreamFailure("connect")) from None
        try:
            tls = await self._secured(grant, reader, writer)
        except BaseException:
            writer.transport.abort()
            raise
        upstream: Upstream
        if tls.protocol == _HTTP2:
            upstream = UpstreamH2(tls, settings)
        else:
            upstream, self._speaks_h1 = UpstreamH1(tls, settings), True
        self._open[upstream] = frozenset(grant.addresses)
        task = asyncio.Task(upstream.run(), loop=asyncio.get_running_loop(), eager_start=True)
        self._running.add(task)
        task.add_done_callback(lambda ended: self._forget(upstream, ended))
        return upstream

    async def _secured(self, grant: Grant, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> TlsStream:
        host = grant.decision.host
        if host is None:
            raise ValueError("a grant without a canonical host")
        tls = TlsStream(self._parts.sessions.connecting(host.text, http2=True), reader, writer)
        try:
            async with asyncio.timeout(self._parts.settings.connect_timeout):
                await tls.handshake()
        except TimeoutError:
            raise UpstreamLostError("a slow handshake", failure=UpstreamFailure("tls", timed_out=True)) from None
        except (SSL.Error, OSError, EOFError) as error:
            raise UpstreamLostError(repr(error), failure=UpstreamFailure("tls")) from None
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
