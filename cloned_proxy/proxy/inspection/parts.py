"""What every inspected connection works with, and the fixed stack of layers that it runs."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from mitmproxy.connection import Server
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layer import CommandGenerator, Layer
from mitmproxy.proxy.layers import ClientTLSLayer
from mitmproxy.proxy.tunnel import TunnelState
from OpenSSL import SSL

from cloned_proxy.proxy.enforcer import Enforcer
from cloned_proxy.proxy.grant import Grant
from cloned_proxy.proxy.inspection.admission import Admission
from cloned_proxy.proxy.inspection.http_layers import StrictHttpLayer
from cloned_proxy.proxy.inspection.session import Session
from cloned_proxy.proxy.inspection.tls import Sessions
from cloned_proxy.proxy.ways import Ways
from cloned_proxy.store.config import ProxySettings
from cloned_proxy.telemetry.metrics import Metrics


@dataclass(slots=True)
class InspectionParts:
    enforcer: Enforcer
    addon: object
    """Handlers by hook name: an `EgressAddon`. Not trusted to be one: a handler that is missing refuses."""
    tls: object
    """The same for the TLS hooks: a `TlsHooks`."""
    sessions: Sessions
    settings: ProxySettings
    metrics: Metrics
    ways: Ways
    admission: Admission


def make_layers(context: Context, session: Session, tunnel: Grant) -> tuple[Layer, StrictHttpLayer]:
    """(top layer, HTTP layer). Raises ValueError for a tunnel grant without a canonical host."""
    host = tunnel.decision.host
    if host is None:
        raise ValueError("a tunnel grant without a canonical host")
    # The CONNECT target, whatever the client says later. Its TLS is opened when the first request has been granted.
    context.server = Server(address=(host.text, tunnel.decision.request.port), sni=host.text, tls=True)
    top = _Root(context)
    opened = top.child = _OpenedTLS(context, session)
    opened.child_layer = inner = StrictHttpLayer(context, session)
    return top, inner


class _OpenedTLS(ClientTLSLayer):
    def __init__(self, context: Context, session: Session) -> None:
        super().__init__(context)
        self._session = session

    def send_close(self, command: commands.CloseConnection) -> CommandGenerator[None]:
        """Says that this is the end (RFC 8446, section 6.1), except where it is a cut. mitmproxy never does."""
        if self.tunnel_state is TunnelState.OPEN and not self._session.doomed:
            with suppress(SSL.Error):
                self.tls.shutdown()
            yield from self.tls_interact()
        yield from super().send_close(command)


class _Root(Layer):
    """A ClientTLSLayer asks what is below it, and must not be the first."""

    child: Layer

    def _handle_event(self, event: events.Event) -> CommandGenerator[None]:
        yield from self.child.handle_event(event)
