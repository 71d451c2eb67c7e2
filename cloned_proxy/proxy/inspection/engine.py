"""The `Inspector` of the gate: HTTP/2 for clients that offer it, HTTP/1.1 for all others."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import structlog

from cloned_proxy.proxy.enforce.enforcer import Enforcer
from cloned_proxy.proxy.grants.grant import Grant
from cloned_proxy.proxy.inspection.certificates.bundle import refresh_bundle
from cloned_proxy.proxy.inspection.certificates.certificate_authority import CertificateAuthority
from cloned_proxy.proxy.inspection.certificates.tls import Sessions
from cloned_proxy.proxy.inspection.connections.streams import ClientReader, ClientWriter, linger
from cloned_proxy.proxy.inspection.connections.tls import TlsStream
from cloned_proxy.proxy.inspection.examining.examiners import Examiner
from cloned_proxy.proxy.inspection.examining.leaks import LeakExaminer
from cloned_proxy.proxy.inspection.examining.screen import EchoExaminer
from cloned_proxy.proxy.inspection.http1.connection import InspectedConnection
from cloned_proxy.proxy.inspection.http2.front import Front
from cloned_proxy.proxy.inspection.requests.admission import Admission
from cloned_proxy.proxy.inspection.requests.services import InspectionServices
from cloned_proxy.proxy.secrets.injection import Injector, NoSecrets
from cloned_proxy.proxy.secrets.leak import LeakWatch
from cloned_proxy.proxy.transport.reset import reset
from cloned_proxy.proxy.upstream.ways import Ways
from cloned_proxy.proxy.wire.client_hello import MAX_HELLO_BYTES, ClientHelloReader, Unread
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.settings.config import ProxySettings
from cloned_proxy.telemetry.metrics import Metrics

_log = structlog.get_logger(__name__)

_CLOSE_SECONDS: Final = 1.0
_HTTP2: Final = b"h2"


class TlsInspector:
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
        self._authority: CertificateAuthority | None = None
        self._connections: dict[InspectedConnection | Front, asyncio.WriteTransport] = {}
        self._none_open = asyncio.Event()
        self._none_open.set()
        # Whoever searches a body comes behind whoever changes it.
        watch = leaks or LeakWatch()
        searching = (LeakExaminer(watch, enforcer), EchoExaminer())
        admission = Admission(enforcer, injector or Injector(NoSecrets()), (*examiners, *searching), watch)
        sessions = Sessions(self._open_authority, extra_ca=extra_ca)
        self.services: Final = InspectionServices(
            enforcer=enforcer,
            sessions=sessions,
            settings=settings,
            metrics=metrics,
            ways=ways or Ways(connect_timeout=settings.connect_timeout),
            admission=admission,
        )

    async def serve_tunnel(self, grant: Grant, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """See `Inspector`."""
        transport = writer.transport
        try:
            hello = ClientHelloReader()
            with contextlib.suppress(TimeoutError, ConnectionError):
                async with asyncio.timeout(self.services.settings.head_timeout):
                    await _read_hello(hello, reader)
            client = ClientReader(reader, bytes(hello.received)), ClientWriter(writer)
            connection = self._connection(grant, *client, http2=_HTTP2 in hello.protocols)
            await self._serve(connection, reader, writer)
        finally:
            transport.abort()

    async def _serve(
        self, connection: InspectedConnection | Front, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._connections[connection] = writer.transport
        self._none_open.clear()
        try:
            await connection.serve()
            if not connection.doomed:
                await linger(reader, writer)
        finally:
            if connection.doomed:
                reset(writer.transport)
            del self._connections[connection]
            if not self._connections:
                self._none_open.set()

    def _connection(
        self, grant: Grant, reader: ClientReader, writer: ClientWriter, *, http2: bool
    ) -> InspectedConnection | Front:
        host = grant.decision.host
        if host is None:
            raise ValueError("a tunnel grant without a canonical host")
        tls = TlsStream(self.services.sessions.accepting(host.text, http2=http2), reader, writer)
        return Front(self.services, tls, grant) if http2 else InspectedConnection(self.services, tls, grant)

    def sweep(self) -> None:
        """Cuts every open request that the policy in force, or a limit, no longer lets pass, and what is idle by it."""
        for connection in tuple(self._connections):
            try:
                connection.sweep()
            except Exception:  # noqa: BLE001  logged; the others that are to go must not stay for it
                _log.exception("an inspected connection could not be swept; the next sweep tries again")

    def drain(self) -> None:
        """Clients are told to come again elsewhere; what is open goes on, until `close`."""
        for connection in tuple(self._connections):
            connection.drain()

    async def close(self) -> None:
        for connection, transport in tuple(self._connections.items()):
            connection.cut("drained")
            reset(transport)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._none_open.wait()

    def _open_authority(self) -> CertificateAuthority:
        if self._authority is None:
            self._authority = CertificateAuthority.open(self._ca_directory)
            try:
                refresh_bundle(self._ca_directory)  # the system's roots change with its updates
            except StoreError as error:
                _log.warning("clients keep an older bundle of the roots and the workspace CA", reason=str(error))
        return self._authority


async def _read_hello(hello: ClientHelloReader, reader: asyncio.StreamReader) -> None:
    """A ClientHello that the gate has seen whole waits in the reader."""
    while hello.feed(await reader.read(MAX_HELLO_BYTES)) is Unread.NEED_MORE and not reader.at_eof():
        pass
