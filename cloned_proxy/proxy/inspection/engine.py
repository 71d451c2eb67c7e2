"""The `Inspector` of the gate: HTTP/2 for clients that offer it, mitmproxy's connection machinery for all others.

Of mitmproxy neither its master nor its addons, option files and DNS.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import structlog
from mitmproxy import http, options
from mitmproxy.net import tls as net_tls

from cloned_proxy.proxy.client_hello import MAX_HELLO_BYTES, ClientHelloReader, Unread
from cloned_proxy.proxy.enforcer import Enforcer
from cloned_proxy.proxy.grant import Grant
from cloned_proxy.proxy.injection import Injector, NoSecrets
from cloned_proxy.proxy.inspection import responses, responses_h2
from cloned_proxy.proxy.inspection.admission import Admission
from cloned_proxy.proxy.inspection.authority import Authority
from cloned_proxy.proxy.inspection.bundle import refresh_bundle
from cloned_proxy.proxy.inspection.connection import InspectedConnection
from cloned_proxy.proxy.inspection.egress_addon import EgressAddon
from cloned_proxy.proxy.inspection.examiners import Examiner
from cloned_proxy.proxy.inspection.http2.front import Front
from cloned_proxy.proxy.inspection.http2.tls import TlsStream
from cloned_proxy.proxy.inspection.leaks import LeakExaminer
from cloned_proxy.proxy.inspection.parts import InspectionParts
from cloned_proxy.proxy.inspection.screen import EchoExaminer
from cloned_proxy.proxy.inspection.streams import ClientReader, ClientWriter, linger
from cloned_proxy.proxy.inspection.tls import Sessions, TlsHooks
from cloned_proxy.proxy.leak import LeakWatch
from cloned_proxy.proxy.relay import reset
from cloned_proxy.proxy.ways import Ways
from cloned_proxy.store.config import ProxySettings
from cloned_proxy.store.errors import StoreError
from cloned_proxy.telemetry.metrics import Metrics

_log = structlog.get_logger(__name__)

_CLOSE_SECONDS: Final = 1.0
_HTTP2: Final = b"h2"

# What mitmproxy's own addons would define; the layers read them.
_LAYER_OPTIONS: Final[tuple[tuple[str, Any, Any], ...]] = (
    ("connection_strategy", str, "lazy"),
    ("store_streamed_bodies", bool, False),
    ("stream_large_bodies", str | None, None),
    ("body_size_limit", str | None, None),
    ("keep_host_header", bool, False),
    ("validate_inbound_headers", bool, True),
    ("normalize_outbound_headers", bool, False),
    ("proxy_debug", bool, False),
)


class MitmInspector:
    """One for each process, on its event loop."""

    def __init__(
        self,
        *,
        enforcer: Enforcer,
        injector: Injector | None = None,
        leaks: LeakWatch | None = None,
        settings: ProxySettings,
        metrics: Metrics,
        ca_directory: Path,
        extra_ca: Path | None = None,
        ways: Ways | None = None,
        examiners: Sequence[Examiner] = (),
    ) -> None:
        """Without an `injector` every rule that injects a secret refuses; without `leaks` no request is searched.

        `extra_ca`: a PEM file of certificates that upstreams may chain to, beside the system's.
        `examiners` look at each exchange, in this order.
        """
        self._ca_directory = ca_directory
        self._authority: Authority | None = None
        self._options = _make_options()
        self._connections: dict[InspectedConnection | Front, asyncio.WriteTransport] = {}
        self._none_open = asyncio.Event()
        self._none_open.set()
        # Whoever searches a body comes behind whoever changes it.
        watch = leaks or LeakWatch()
        searching = (LeakExaminer(watch, enforcer), EchoExaminer())
        admission = Admission(enforcer, injector or Injector(NoSecrets()), (*examiners, *searching), watch)
        sessions = Sessions(self._open_authority, extra_ca=extra_ca)
        self.parts: Final = InspectionParts(
            enforcer=enforcer,
            addon=EgressAddon(admission),
            tls=TlsHooks(sessions),
            sessions=sessions,
            settings=settings,
            metrics=metrics,
            ways=ways or Ways(connect_timeout=settings.connect_timeout),
            admission=admission,
        )
        _trim()

    async def serve_tunnel(self, grant: Grant, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """See `Inspector`."""
        transport = writer.transport
        try:
            hello = ClientHelloReader()
            with contextlib.suppress(TimeoutError, ConnectionError):
                async with asyncio.timeout(self.parts.settings.head_timeout):
                    await _read_hello(hello, reader)
            client = ClientReader(reader, bytes(hello.received)), ClientWriter(writer)
            connection: InspectedConnection | Front
            if _HTTP2 in hello.protocols:
                connection = self._front(grant, *client)
            else:
                connection = InspectedConnection(self.parts, self._options, *client, grant)
            await self._serve(connection, reader, writer)
        finally:
            transport.abort()

    async def _serve(
        self, connection: InspectedConnection | Front, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._connections[connection] = writer.transport
        self._none_open.clear()
        try:
            await (connection.serve() if isinstance(connection, Front) else _to_its_end(connection))
            if not connection.doomed:
                await linger(reader, writer)
        finally:
            connection.end()
            if connection.doomed:
                reset(writer.transport)
            del self._connections[connection]
            if not self._connections:
                self._none_open.set()

    def _front(self, grant: Grant, reader: ClientReader, writer: ClientWriter) -> Front:
        host = grant.decision.host
        if host is None:
            raise ValueError("a tunnel grant without a canonical host")
        session = self.parts.sessions.accepting(host.text, http2=True)
        return Front(self.parts, TlsStream(session, reader, writer), grant)

    def sweep(self) -> None:
        """Cuts every open request that the policy in force, or a limit, no longer lets pass, and what is idle by it."""
        for connection in tuple(self._connections):
            try:
                connection.sweep()
            except Exception:  # noqa: BLE001  logged; the others that are to go must not stay for it
                _log.exception("an inspected connection could not be swept; the next sweep tries again")

    def drain(self) -> None:
        """Clients of HTTP/2 are told to come again elsewhere; what is open goes on, until `close`."""
        for connection in tuple(self._connections):
            if isinstance(connection, Front):
                connection.drain()

    async def close(self) -> None:
        for connection, transport in tuple(self._connections.items()):
            connection.cut("drained")
            reset(transport)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._none_open.wait()

    def _open_authority(self) -> Authority:
        if self._authority is None:
            self._authority = Authority.open(self._ca_directory)
            try:
                refresh_bundle(self._ca_directory)  # the system's roots change with its updates
            except StoreError as error:
                _log.warning("clients keep an older bundle of the roots and the workspace CA", reason=str(error))
        return self._authority


async def _read_hello(hello: ClientHelloReader, reader: asyncio.StreamReader) -> None:
    """A ClientHello that the gate has seen whole waits in the reader."""
    while hello.feed(await reader.read(MAX_HELLO_BYTES)) is Unread.NEED_MORE and not reader.at_eof():
        pass


async def _to_its_end(connection: InspectedConnection) -> None:
    """Mitmproxy's `handle_client`, which does not pass a cancellation on to its tasks: they would dial and forward."""
    connection.wait_for_first_head()
    handling = asyncio.ensure_future(connection.handle_client())
    try:
        await asyncio.shield(handling)
    except asyncio.CancelledError:
        connection.cut("client_reset")
        handling.add_done_callback(lambda done: done.cancelled() or done.exception())  # what it failed with is no news
        await asyncio.wait((handling,), timeout=_CLOSE_SECONDS)
        raise


def _make_options() -> options.Options:
    made = options.Options(http2=False, http3=False, websocket=False, rawtcp=False, ssl_insecure=False)
    for name, kind, default in _LAYER_OPTIONS:
        made.add_option(name, kind, default, "")
    return made


def _trim() -> None:
    """Takes out of mitmproxy what costs, leaks or breaks and protects nothing here."""
    responses.install()
    responses_h2.install()
    # Checks the types of values that its own parser has just made.
    setattr(http.MessageData, "__post_init__", lambda _: None)  # noqa: B010  mypy sees a method
    # Would write the keys of every session to the file named by SSLKEYLOGFILE.
    net_tls.log_master_secret = None
