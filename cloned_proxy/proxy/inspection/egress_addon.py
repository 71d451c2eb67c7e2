"""The decisions on an inspected connection: one `authorise` for each request, and no dial without its grant.

The handlers have mitmproxy's hook names but are called by `InspectedConnection.handle_hook`, directly: mitmproxy's own
dispatch logs an exception in a handler and lets the request go on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mitmproxy import http
from mitmproxy.flow import Error
from mitmproxy.proxy.server_hooks import ServerConnectionHookData

from cloned_proxy.proxy.answers import UpstreamFailure
from cloned_proxy.proxy.fields import asks_for_websocket, request_fields
from cloned_proxy.proxy.frames import EchoGuard
from cloned_proxy.proxy.inspection.admission import Admission, TurnedAway
from cloned_proxy.proxy.inspection.connection import InspectedConnection
from cloned_proxy.proxy.inspection.examiners import Admitted, Filters, ResponseSeen, UnfitError
from cloned_proxy.proxy.inspection.exchange import Exchange

_SWITCHING: Final = 101
_FIRST_FINAL: Final = 200
_WITHOUT_BODY: Final = frozenset({_SWITCHING, 204, 304})
_HTTPS_PORT: Final = 443
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})
_OF_ONE_HOP: Final = _FRAMING | {b"connection"}


class EgressAddon:
    """One for each process; all state is in the connection that a hook belongs to."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    async def requestheaders(self, connection: InspectedConnection, flow: http.HTTPFlow) -> None:
        """Decides, and writes the request that may go upstream; or prepares the refusal."""
        exchange = connection.current
        outcome = await self._admission.admit(connection.tunnel, exchange.head, connection)
        if isinstance(outcome, TurnedAway):
            exchange.answer = outcome.answer
            _kill(flow)
            return
        exchange.admitted, filters = outcome
        exchange.grant = exchange.admitted.grant
        self._write_request(connection, exchange.admitted, filters, flow)

    @staticmethod
    def _write_request(
        connection: InspectedConnection, admitted: Admitted, filters: Filters | None, flow: http.HTTPFlow
    ) -> None:
        exchange, grant, head = connection.current, admitted.grant, admitted.forwarded
        host = grant.decision.host
        if host is None:
            raise ValueError("a grant without a canonical host")
        data = flow.request.data
        # mitmproxy's names go through IDNA 2003; here only the A-label that the policy matched goes on.
        data.host, data.port = host.text, head.port
        fields = request_fields(head, host, default_port=_HTTPS_PORT, injection=admitted.injection)
        data.headers = http.Headers(field for field in fields if field[0] != b"expect")
        data.path = head.path.encode("ascii")

        def sent(piece: bytes) -> None:
            exchange.sent(piece)
            grant.charge.up(len(piece))

        flow.request.stream = _passing(filters, sent, exchange, connection.stop_request)

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
        exchange, response, admitted = connection.current, flow.response, connection.current.admitted
        if response is None or admitted is None:
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
        exchange.last |= exchange.body_withheld
        if "connection" in response.headers:  # the one option that the reader leaves there: close
            connection.retire_after(flow.server_conn)
        seen = _seen(exchange, response)
        try:
            exchange.filters = filters = self._admission.examine(admitted, seen)
        except UnfitError as error:
            exchange.turn_away(error)
            _kill(flow)
            connection.retire(flow.server_conn)
            return

        def received(piece: bytes) -> None:
            admitted.grant.charge.down(len(piece))

        if filters is None or not filters.limit:
            response.stream = _passing(filters, received, exchange, connection.cut)
            exchange.guard = _guard_of(exchange, admitted)
        elif seen.length is not None and seen.length > filters.limit:
            exchange.turn_away(filters.too_long())
            _kill(flow)
            connection.retire(flow.server_conn)
            return
        self._write_response(exchange, response, seen)

    @staticmethod
    def _write_response(exchange: Exchange, response: http.Response, seen: ResponseSeen) -> None:
        response.data.reason = seen.phrase
        framing = [(name, value) for name, value in response.headers.fields if name.lower() in _FRAMING]
        if exchange.filters is not None and exchange.filters.resizes and not exchange.filters.limit:
            framing = [(b"Transfer-Encoding", b"chunked")]
        if exchange.head.minor == 0:
            framing = [(name, value) for name, value in framing if name.lower() != b"transfer-encoding"]
        kept = [*seen.fields, *framing]
        if exchange.upgraded:
            kept += [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
        elif exchange.last:
            kept.append((b"Connection", b"close"))
        response.headers = http.Headers(kept)

    async def response(self, connection: InspectedConnection, flow: http.HTTPFlow) -> None:
        """The response has been read to its end. Its grant stays out: the request may still be on its way."""
        exchange, response = connection.current, flow.response
        filters, grant = exchange.filters, exchange.grant
        if response is None or response.stream or filters is None or grant is None:
            return
        held = response.raw_content or b""
        try:
            body = await filters.whole(held)
        except UnfitError as error:
            exchange.turn_away(error)
            _kill(flow)
            connection.finish_failed()
            return
        grant.charge.down(len(body))
        if body != held:
            response.raw_content = body
            if "content-length" in response.headers:
                response.headers["content-length"] = str(len(body))

    async def error(self, connection: InspectedConnection, flow: http.HTTPFlow) -> None:  # noqa: ARG002  a hook
        connection.finish_failed()


def _guard_of(exchange: Exchange, admitted: Admitted) -> EchoGuard | None:
    """What looks at the frames of a WebSocket whose upgrade carried a secret."""
    secrets = admitted.injection.echo if admitted.injection is not None else None
    return EchoGuard(secrets) if exchange.upgraded and secrets is not None else None


def _seen(exchange: Exchange, response: http.Response) -> ResponseSeen:
    length = response.headers.get("content-length")
    fields = [(name, value) for name, value in response.headers.fields if name.lower() not in _OF_ONE_HOP]
    has_body = exchange.head.method != "HEAD" and response.status_code not in _WITHOUT_BODY
    size = int(length) if length is not None else None
    return ResponseSeen(response.status_code, response.data.reason, fields, size, has_body)


def _passing(
    filters: Filters | None,
    note: Callable[[bytes], None],
    exchange: Exchange,
    stop: Callable[[str], None],
) -> Callable[[bytes], bytes | list[bytes]]:
    """What mitmproxy calls with each piece of a body, and with b"" at its end. `note` is told what goes on."""

    def noted(piece: bytes) -> bytes:
        note(piece)
        return piece

    if filters is None:
        return noted

    def filtered(piece: bytes) -> list[bytes]:
        try:
            passed = filters.feed(piece) if piece else filters.rest()
        except UnfitError as error:
            exchange.turn_away(error)
            stop(error.cause)
            # Nothing may follow, not even the end of the body: the reader would take it for whole.
            raise
        note(passed)
        # An empty piece would be the last chunk.
        return [passed] if passed else []

    return filtered


def _kill(flow: http.HTTPFlow) -> None:
    flow.error = Error(Error.KILLED_MESSAGE)
