"""What follows a CONNECT on the gate: it becomes a tunnel, goes to the inspection, or is refused.

The order of a tunnel: identify, authorise, dial a checked address, 200, read the whole ClientHello, `decide_tunnel`,
and only then the first client byte goes upstream. The dial comes before the 200 because a 502 can be told only then;
it is the one thing that a grant permits before the hello is seen. An inspected tunnel dials nothing here.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from socket import socket as Socket  # noqa: N812  the type, beside variables of that name
from typing import Final

from cloned_proxy.policy.decide import decide_tunnel
from cloned_proxy.policy.identity import identify
from cloned_proxy.policy.model import Decision, Reason, Request, Verdict
from cloned_proxy.proxy import answers
from cloned_proxy.proxy.answers import Answer, UpstreamFailure
from cloned_proxy.proxy.client_hello import ClientHelloReader, ServerNames, Unread
from cloned_proxy.proxy.connection import ClientConnection
from cloned_proxy.proxy.dial import DialError, ExhaustedError, dial
from cloned_proxy.proxy.enforcer import Grant, Refusal
from cloned_proxy.proxy.head import Head
from cloned_proxy.proxy.relay import Relay, reset
from cloned_proxy.proxy.tunnels import Tunnel
from cloned_proxy.telemetry.events import Kind

_ESTABLISHED: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"
_ACCESS_DENIED: Final = b"\x15\x03\x03\x00\x02\x02\x31"
"""A fatal `access_denied` alert (RFC 8446, section 6.2): a TLS client says so instead of "connection reset"."""

_REPORTED_SILENCE: Final = 1.0
"""Seconds that a silent tunnel waits for its ClientHello in report mode."""


async def serve(connection: ClientConnection, head: Head) -> None:
    """Serves a CONNECT. Ends with the connection answered, closed, relaying, or at the end of its inspection."""
    if connection.parts.stopping():
        connection.answer(answers.unavailable())
    else:
        await _serve_connect(connection, head)


async def _serve_connect(connection: ClientConnection, head: Head) -> None:
    parts = connection.parts
    caller = identify(head.fields, key=parts.identity_key, now=parts.clock(), listener=connection.listener.principal)
    request = Request(head.host, head.port)
    granted = parts.enforcer.authorise_now(caller, request, Kind.TUNNEL)
    if granted is None:
        granted = await parts.enforcer.authorise(caller, request, Kind.TUNNEL, client=connection)
    if isinstance(granted, Refusal):
        connection.answer(answers.refused(granted))
    else:
        await _Passage(connection, granted).run()


class _EndedError(Exception):
    """The tunnel is not to be; the client was told. The message is the cause that goes on record."""


class _Passage:
    """One granted CONNECT, until its relay or its inspection ends. The grant goes back exactly once."""

    __slots__ = ("_connection", "_counted", "_established", "_grant", "_parts", "_since", "_tunnel")

    def __init__(self, connection: ClientConnection, grant: Grant) -> None:
        self._connection = connection
        self._parts = connection.parts
        self._grant = grant
        self._since = time.monotonic()
        self._established = False
        self._counted = False
        self._tunnel = Tunnel(grant, connection.cut, self._last_byte)

    async def run(self) -> None:
        connection = self._connection
        cause = Reason.INTERNAL_ERROR.value
        self._parts.tunnels.add(self._tunnel)
        try:
            cause = await (self._inspected() if self._grant.decision.inspect else self._relayed())
        except _EndedError as ended:
            cause = str(ended)
        except asyncio.CancelledError:
            cause = connection.cause or "client_reset"
            raise
        finally:
            if cause:
                self._end(cause)

    async def _relayed(self) -> str:
        """Returns "" once the relay has taken over and will end the tunnel."""
        upstream = await self._dial()
        try:
            self._establish()
            # Where nothing can turn out wrong, nothing is waited for: the server may be the one who speaks first.
            if decide_tunnel(self._grant.decision, None) is self._grant.decision:
                self._tunnel.server_names = Unread.NOT_TLS
            else:
                await self._read_hello()
            return await self._relay(upstream)
        except BaseException:
            upstream.close()
            raise

    async def _inspected(self) -> str:
        inspector = self._parts.inspector
        if inspector is None:
            raise self._refused_as(_faulty(self._grant.decision))
        self._establish()
        await self._read_hello()
        if self._tunnel.server_names is Unread.NOT_TLS:
            # Passed in report mode only. There is no TLS to open, so it is a tunnel like any other.
            return await self._relay(await self._dial())
        self._count()
        reader, writer = self._connection.hand_over()
        try:
            await inspector.serve_tunnel(self._grant, reader, writer)
        finally:
            self._connection.release()
        return self._connection.cause or "closed"

    async def _dial(self) -> Socket:
        grant = self._grant
        started = time.perf_counter()
        try:
            upstream = await dial(
                grant.addresses, grant.decision.request.port, seconds=self._parts.settings.connect_timeout
            )
        except DialError as error:
            failure = UpstreamFailure(error.phase, error.timed_out)
            self._turn_away(answers.failed(failure, grant.decision, grant.id))
            raise _EndedError(f"upstream_error:{error.phase}") from error
        except ExhaustedError as error:
            raise self._refused_as(_faulty(grant.decision)) from error
        self._parts.metrics.upstream_connected(time.perf_counter() - started)
        return upstream

    async def _read_hello(self) -> None:
        """Waits for a whole ClientHello or for what cannot be one. Raises _EndedError when it does not pass."""
        connection = self._connection
        reader = ClientHelloReader()
        fresh = connection.peek()
        seen = len(fresh)
        outcome: ServerNames | Unread = reader.feed(fresh)
        try:
            async with asyncio.timeout(self._hello_seconds()):
                while outcome is Unread.NEED_MORE:
                    if not await connection.more(seen):
                        if not seen:
                            connection.transport.close()
                            raise _EndedError("closed")
                        outcome = Unread.NOT_TLS
                        break
                    fresh = connection.peek(seen)
                    seen += len(fresh)
                    outcome = reader.feed(fresh)
        except TimeoutError:
            outcome = Unread.NOT_TLS
        self._tunnel.server_names = outcome
        decision = decide_tunnel(self._grant.decision, None if isinstance(outcome, Unread) else outcome)
        if not decision.passes:
            raise self._refused_as(decision)
        self._parts.enforcer.amend(self._grant, decision)

    def _hello_seconds(self) -> float:
        seconds = self._parts.settings.client_hello_timeout
        # Where silence will pass anyway, a protocol whose server speaks first must not wait for long to be recorded.
        return min(seconds, _REPORTED_SILENCE) if decide_tunnel(self._grant.decision, None).passes else seconds

    async def _relay(self, upstream: Socket) -> str:
        connection = self._connection
        relay = Relay(
            connection.transport,
            connection.take(),
            self._grant.charge,
            on_end=self._relay_ended,
            clock=time.monotonic,
            splicer=self._parts.splicer,
        )
        connection.relay = relay
        self._count()
        await asyncio.get_running_loop().create_connection(lambda: relay.upstream, sock=upstream)
        if not relay.started:
            raise _EndedError(connection.cause or "client_reset")
        if connection.eof:
            relay.client.eof_received()  # the loop told it to the connection, and will not tell it again
        return ""

    def _relay_ended(self, cause: str) -> None:
        try:
            self._end(cause)
        finally:
            self._parts.forget(self._connection)

    def _refused_as(self, decision: Decision) -> _EndedError:
        """Puts the refusal on record, tells the client, and returns what ends the tunnel."""
        refusal = self._parts.enforcer.amend(self._grant, decision)
        answer = answers.refused(refusal) if refusal is not None else answers.unavailable()
        self._turn_away(answer)
        return _EndedError(f"refused:{decision.reason.value}")

    def _turn_away(self, answer: Answer) -> None:
        connection = self._connection
        if not self._established:
            connection.answer(answer)
        elif isinstance(self._tunnel.server_names, tuple):
            connection.close_after(_ACCESS_DENIED)
        else:
            reset(connection.transport)

    def _establish(self) -> None:
        self._established = True
        self._connection.transport.write(_ESTABLISHED)

    def _count(self) -> None:
        self._counted = True
        self._parts.metrics.tunnel_opened(self._grant.caller.tool)

    def _end(self, cause: str) -> None:
        self._parts.tunnels.discard(self._tunnel)
        if self._counted:
            self._counted = False
            self._parts.metrics.tunnel_closed(self._grant.caller.tool)
        self._parts.enforcer.finish(self._grant, cause)

    def _last_byte(self) -> float:
        relay = self._connection.relay
        if relay is not None:
            return relay.last_byte
        # Before the relay the deadlines of the hello and the dial hold; an inspection watches its own flow.
        return time.monotonic() if self._counted else self._since


def _faulty(decision: Decision) -> Decision:
    return replace(decision, verdict=Verdict.DENY, reason=Reason.INTERNAL_ERROR)
