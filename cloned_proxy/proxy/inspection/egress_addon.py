"""The decisions on an inspected connection: one `authorise` for each request, and no dial without its grant.

The handlers have mitmproxy's hook names but are called by `InspectedConnection.handle_hook`, directly: mitmproxy's own
dispatch logs an exception in a handler and lets the request go on.
"""

from __future__ import annotations

from typing import Final

from mitmproxy import http
from mitmproxy.flow import Error
from mitmproxy.proxy.server_hooks import ServerConnectionHookData

from cloned_proxy.policy.decision import Request
from cloned_proxy.policy.host import HostError, parse_host
from cloned_proxy.policy.vocabulary import Reason
from cloned_proxy.proxy import answers
from cloned_proxy.proxy.answers import UpstreamFailure
from cloned_proxy.proxy.echo import EchoFilter
from cloned_proxy.proxy.enforcer import Enforcer
from cloned_proxy.proxy.fields import asks_for_websocket, request_fields
from cloned_proxy.proxy.grant import Grant, Refusal
from cloned_proxy.proxy.head import Head
from cloned_proxy.proxy.injection import InjectionError, Injector
from cloned_proxy.proxy.inspection import screen
from cloned_proxy.proxy.inspection.connection import InspectedConnection
from cloned_proxy.proxy.inspection.exchange import Exchange
from cloned_proxy.telemetry.events import Kind

_SWITCHING: Final = 101
_FIRST_FINAL: Final = 200
_HTTPS_PORT: Final = 443


class EgressAddon:
    """One for each process; all state is in the connection that a hook belongs to."""

    def __init__(self, enforcer: Enforcer, injector: Injector) -> None:
        self._enforcer = enforcer
        self._injector = injector

    async def requestheaders(self, connection: InspectedConnection, flow: http.HTTPFlow) -> None:
        """Decides, and writes the request that may go upstream; or prepares the refusal."""
        exchange = connection.current
        granted = await self._authorise(connection, exchange.head)
        if isinstance(granted, Refusal):
            exchange.answer = answers.refused(granted)
            _kill(flow)
            return
        exchange.grant = granted
        try:
            exchange.injection = self._injector.injection_for(granted, exchange.head)
        except InjectionError as error:
            self._take_back(exchange, granted, error.reason)
            _kill(flow)
            return
        self._write_request(exchange, granted, flow)

    async def _authorise(self, connection: InspectedConnection, head: Head) -> Grant | Refusal:
        """The caller is that of the CONNECT: no field inside the TLS can change it."""
        tunnel = connection.tunnel
        caller, kind = tunnel.caller, Kind.INSPECTED_REQUEST
        request = Request(head.host, head.port, head.method, head.path)
        if not _same_target(head, tunnel):
            await self._enforcer.breath(caller)
            return self._enforcer.refuse(caller, request, kind, Reason.HOST_HEADER_MISMATCH)
        return await self._enforcer.authorise(caller, request, kind, pinned=tunnel.addresses, client=connection)

    def _take_back(self, exchange: Exchange, granted: Grant, reason: Reason) -> None:
        exchange.grant = None
        refused = granted.decision.denied(reason)
        refusal = self._enforcer.amend(granted, refused)
        self._enforcer.finish(granted, f"refused:{reason.value}")
        exchange.answer = answers.refused(refusal or Refusal(granted.id, refused))

    @staticmethod
    def _write_request(exchange: Exchange, grant: Grant, flow: http.HTTPFlow) -> None:
        host, head = grant.decision.host, exchange.head
        if host is None:
            raise ValueError("a grant without a canonical host")
        data = flow.request.data
        # mitmproxy's names go through IDNA 2003; here only the A-label that the policy matched goes on.
        data.host, data.port = host.text, head.port
        fields = request_fields(head, host, default_port=_HTTPS_PORT, injection=exchange.injection)
        data.headers = http.Headers(fields)

        def count(piece: bytes) -> bytes:
            grant.charge.up(len(piece))
            return piece

        flow.request.stream = count

    async def server_connect(self, connection: InspectedConnection, data: ServerConnectionHookData) -> None:
        """The last line: whatever asks for a dial, only the grant of the exchange at hand permits one."""
        grant, server = connection.current.grant, data.server
        if grant is None or grant.decision.host is None or not grant.decision.passes or not grant.charge.open:
            raise PermissionError("a dial without a grant")
        target = (grant.decision.host.text, grant.decision.request.port)
        if (server.address, server.tls, server.via, server.transport_protocol) != (target, True, None, "tcp"):
            raise PermissionError("a dial that its grant does not permit")

    async def request(self, connection: InspectedConnection, flow: http.HTTPFlow) -> None:  # noqa: ARG002  a hook
        """The request has been read to its end: from now on the upstream is waited for."""
        if not connection.current.began:
            connection.expect_response()

    async def responseheaders(self, connection: InspectedConnection, flow: http.HTTPFlow) -> None:
        """Takes out of the response what ends here, and keeps its body out of memory."""
        exchange, response, grant = connection.current, flow.response, connection.current.grant
        if response is None or grant is None:
            raise ValueError("a response that nothing was asked for")
        if response.status_code < _FIRST_FINAL:
            exchange.upgraded = response.status_code == _SWITCHING and asks_for_websocket(exchange.head)
            if not exchange.upgraded:
                # mitmproxy takes a 101 for the final response, and an upgrade that nobody asked for is a tunnel.
                exchange.failure = UpstreamFailure("response")
                _kill(flow)
                connection.retire(flow.server_conn)
                return
        connection.response_came()
        if "connection" in response.headers:  # the one option that the reader leaves there: close
            connection.retire_after(flow.server_conn)
        if (secrets := _secrets_of(exchange)) is not None:
            if not screen.begin(exchange, secrets, response, connection.cut):
                _kill(flow)
                connection.retire(flow.server_conn)
                return
        else:

            def count(piece: bytes) -> bytes:
                grant.charge.down(len(piece))
                return piece

            response.stream = count
        self._write_response(exchange, response)

    @staticmethod
    def _write_response(exchange: Exchange, response: http.Response) -> None:
        kept = [(name, value) for name, value in response.headers.fields if name.lower() != b"connection"]
        if exchange.upgraded:
            kept += [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
        elif exchange.last:
            kept.append((b"Connection", b"close"))
        if exchange.head.minor == 0:
            kept = [(name, value) for name, value in kept if name.lower() != b"transfer-encoding"]
        secrets = _secrets_of(exchange)
        response.headers = http.Headers(kept if secrets is None else screen.cleared(secrets, kept))

    async def response(self, connection: InspectedConnection, flow: http.HTTPFlow) -> None:
        """The response has been read to its end. Its grant stays out: the request may still be on its way."""
        exchange, response = connection.current, flow.response
        secrets = _secrets_of(exchange)
        if secrets is not None and response is not None and not response.stream:  # noqa: SIM102  held, then looked at
            if not screen.passes(exchange, secrets, response):
                _kill(flow)
                connection.finish_failed()

    async def error(self, connection: InspectedConnection, flow: http.HTTPFlow) -> None:  # noqa: ARG002  a hook
        connection.finish_failed()


def _secrets_of(exchange: Exchange) -> EchoFilter | None:
    """What the response must not hold; None when it need not be looked at."""
    return exchange.injection.echo if exchange.injection is not None else None


def _kill(flow: http.HTTPFlow) -> None:
    flow.error = Error(Error.KILLED_MESSAGE)


def _same_target(head: Head, tunnel: Grant) -> bool:
    """CONNECT host = inner Host (contract section 5)."""
    try:
        return head.port == tunnel.decision.request.port and parse_host(head.host) == tunnel.decision.host
    except HostError:
        return False
