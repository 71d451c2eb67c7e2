"""The `Inspector` of the gate: mitmproxy's connection machinery, without its master, addons, options files and DNS."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import structlog
from mitmproxy import http, options
from mitmproxy.net import tls as net_tls

from cloned_proxy.proxy.enforcer import Enforcer
from cloned_proxy.proxy.grant import Grant
from cloned_proxy.proxy.injection import Injector, NoSecrets
from cloned_proxy.proxy.inspection import responses
from cloned_proxy.proxy.inspection.admission import Admission
from cloned_proxy.proxy.inspection.authority import Authority
from cloned_proxy.proxy.inspection.bundle import refresh_bundle
from cloned_proxy.proxy.inspection.connection import InspectedConnection
from cloned_proxy.proxy.inspection.egress_addon import EgressAddon
from cloned_proxy.proxy.inspection.examiners import Examiner
from cloned_proxy.proxy.inspection.parts import InspectionParts
from cloned_proxy.proxy.inspection.screen import EchoExaminer
from cloned_proxy.proxy.inspection.streams import ClientReader, ClientWriter, linger
from cloned_proxy.proxy.inspection.tls import TlsHooks
from cloned_proxy.proxy.relay import reset
from cloned_proxy.proxy.tunnels import idle_seconds
from cloned_proxy.store.config import ProxySettings
from cloned_proxy.store.errors import StoreError
from cloned_proxy.telemetry.metrics import Metrics

_log = structlog.get_logger(__name__)

_CLOSE_SECONDS: Final = 1.0

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
        settings: ProxySettings,
        metrics: Metrics,
        ca_directory: Path,
        extra_ca: Path | None = None,
        examiners: Sequence[Examiner] = (),
    ) -> None:
        """Without an `injector` every rule that injects a secret refuses.

        `extra_ca`: a PEM file of certificates that upstreams may chain to, beside the system's.
        `examiners` look at each exchange, in this order.
        """
        self._ca_directory = ca_directory
        self._authority: Authority | None = None
        self._options = _make_options()
        self._connections: dict[InspectedConnection, asyncio.WriteTransport] = {}
        self._enforcer = enforcer
        self._none_open = asyncio.Event()
        self._none_open.set()
        # Whoever searches a body comes behind whoever changes it.
        admission = Admission(enforcer, injector or Injector(NoSecrets()), (*examiners, EchoExaminer()))
        self.parts: Final = InspectionParts(
            enforcer=enforcer,
            addon=EgressAddon(admission),
            tls=TlsHooks(self._open_authority, extra_ca=extra_ca),
            settings=settings,
            metrics=metrics,
            admission=admission,
        )
        _trim()

    async def serve_tunnel(self, grant: Grant, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """See `Inspector`."""
        transport = writer.transport
        try:
            connection = InspectedConnection(
                self.parts, self._options, ClientReader(reader), ClientWriter(writer), grant
            )
            self._connections[connection] = transport
            self._none_open.clear()
            try:
                connection.wait_for_first_head()
                await _to_its_end(connection)
                if not connection.doomed:
                    await linger(reader, writer)
            finally:
                connection.end()
                if connection.doomed:
                    reset(transport)
                del self._connections[connection]
                if not self._connections:
                    self._none_open.set()
        finally:
            transport.abort()

    def sweep(self) -> None:
        """Cuts every open request that the policy in force, or a limit, no longer lets pass, and what is idle by it."""
        for connection in tuple(self._connections):
            grant = connection.open_grant
            if grant is None:
                continue
            decision = self._enforcer.review(grant)
            quiet = connection.is_quiet_for(idle_seconds(decision, self.parts.settings.idle_timeout))
            if decision.passes and not quiet:
                continue
            try:
                connection.cut("idle" if decision.passes else f"revoked:{decision.reason.value}")
            except Exception:  # noqa: BLE001  logged; the others that are to go must not stay for it
                _log.exception("an inspected connection could not be cut; the next sweep tries again")

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


async def _to_its_end(connection: InspectedConnection) -> None:
    """Mitmproxy's `handle_client`, which does not pass a cancellation on to its tasks: they would dial and forward."""
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
    # Checks the types of values that its own parser has just made.
    setattr(http.MessageData, "__post_init__", lambda _: None)  # noqa: B010  mypy sees a method
    # Would write the keys of every session to the file named by SSLKEYLOGFILE.
    net_tls.log_master_secret = None
