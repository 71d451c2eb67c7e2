"""A CONNECT, from its head to a tunnel, the inspection, or an answer.

The order of a tunnel: identify, decide, dial a checked address, 200, read the whole ClientHello, `decide_tunnel`, and
only then the first client byte goes upstream. The dial comes before the 200 because a 502 can be told only then; it is
the one thing that a grant permits before the hello is seen. An inspected tunnel dials nothing here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from socket import socket as Socket  # noqa: N812  the type, beside variables of that name

from cloned_proxy.policy.callers.caller import Caller, coming_from
from cloned_proxy.policy.callers.identity import identify
from cloned_proxy.policy.deciding.decide import decide_tunnel, needs_hello
from cloned_proxy.policy.terms.decision import Request
from cloned_proxy.policy.terms.vocabulary import Reason
from cloned_proxy.proxy.enforce import answers
from cloned_proxy.proxy.grants.grant import Grant, Refusal
from cloned_proxy.proxy.transport.relay import Relay
from cloned_proxy.proxy.transport.relay_guard import RelayGuard
from cloned_proxy.proxy.tunnel.client import Client
from cloned_proxy.proxy.tunnel.hello_guard import HelloGuard, hello_seconds
from cloned_proxy.proxy.tunnel.inspected import serve_inspected
from cloned_proxy.proxy.tunnel.open_tunnel import OpenTunnel
from cloned_proxy.proxy.tunnel.ssh_guard import SshGuard
from cloned_proxy.proxy.upstream.dial import DialError, DialOutcome, ExhaustedError, join
from cloned_proxy.proxy.wire.client_hello import ClientHelloReader, ServerNames, Unread
from cloned_proxy.proxy.wire.head import Head
from cloned_proxy.telemetry.events import Kind


class _EndedError(Exception):
    """The tunnel is not to be; the client was told. The message is the cause that goes on record."""


class ConnectTunnel(OpenTunnel, asyncio.Protocol):
    """One CONNECT, until it is answered or its relay or its inspection ends.

    Steps, not a task: nearly every tunnel waits for nothing but its dial and its ClientHello.
    """

    __slots__ = ("_dialled_at", "_hello", "_joining", "_services", "_settled")

    def __init__(self, client: Client) -> None:
        super().__init__(client)
        self._services = client.services
        self._settled = True
        """There is no grant yet, or the relay or the inspection gives the grant back."""
        self._dialled_at = 0.0
        self._hello: ClientHelloReader | None = None
        """Set while the ClientHello is waited for."""
        self._joining: asyncio.Task[None] | None = None

    # Who asks, and whether it may.

    def start(self, head: Head, data: bytes = b"") -> None:
        """Serves a CONNECT whose head came as `data`, if it came as bytes."""
        if self._services.stopping():
            self.client.answer(answers.unavailable())
        else:
            self.decide(self.identify(head), head, data)

    def identify(self, head: Head) -> Caller:
        """By its listener and its credential. A credential that proves nothing makes a caller that `decide` refuses."""
        services, client = self._services, self.client
        principal = client.listener.principal
        caller = identify(head.fields, tokens=services.tokens, now=services.clock(), listener=principal)
        return coming_from(caller, client.source_address)

    def decide(self, caller: Caller, head: Head, data: bytes) -> None:
        """Refuses, or goes on with a grant: at once where nothing has to be waited for."""
        client = self.client
        granted = self._services.enforcer.authorise_now(caller, Request(head.host, head.port), Kind.TUNNEL)
        if granted is None:
            self.take_over()
            client.run(self._decide_in_time(caller, head))
        elif isinstance(granted, Refusal):
            answer = answers.refused(granted)
            if data and not client.source_address:  # what is kept is told, and recorded, as it was the first time
                self._services.refusals.keep(client.listener, data, caller, granted, answer.encode())
            client.answer(answer)
        else:
            self.take_over()
            self._granted(granted, head)

    async def _decide_in_time(self, caller: Caller, head: Head) -> None:
        """Where a name has to be resolved, a record written, or a person asked."""
        request = Request(head.host, head.port)
        granted = await self._services.enforcer.authorise(caller, request, Kind.TUNNEL, client=self.client)
        if isinstance(granted, Refusal):
            self.client.answer(answers.refused(granted))
        else:
            self._granted(granted, head)

    def take_over(self) -> None:
        """From now on the client's transport talks to this."""
        self.client.transport.set_protocol(self)

    def _granted(self, grant: Grant, head: Head) -> None:
        self._services.publish(self.client.listener, head, grant)
        self.begin(grant, self.inspect if grant.decision.inspect else self.dial)

    def begin[*Args](self, grant: Grant, step: Callable[[*Args], None], *arguments: *Args) -> None:
        """Takes the first step under a grant."""
        self.open(grant)
        self._settled = False
        self._take(step, *arguments)

    def _take[*Args](self, step: Callable[[*Args], None], *arguments: *Args) -> None:
        """Takes one step. Whatever goes wrong in it ends the tunnel, and nothing is left open."""
        if self.finished:
            return
        try:
            step(*arguments)
        except _EndedError as ended:
            self._give_up(str(ended))
        except Exception:  # noqa: BLE001  logged there; whatever it was, the connection must not go on
            self._give_up(Reason.INTERNAL_ERROR.value)
            self.client.failed()

    # The dial.

    def dial(self) -> None:
        """Connects to an address of the grant, or through the proxy in front, and goes on with `dialled`."""
        self._dialled_at = time.perf_counter()
        self.attempt = self._services.ways.attempt(self.grant, self._dial_ended)
        self.attempt.start()

    def hear(self, front: Socket, seconds: float) -> None:
        """In the place of `dial`: the proxy in front was asked already, and has `seconds` left to answer."""
        self._dialled_at = time.perf_counter() - self._services.settings.connect_timeout + seconds
        self.attempt = self._services.ways.answered(self.grant, (front, seconds), self._dial_ended)
        self.attempt.start()

    def _dial_ended(self, outcome: DialOutcome) -> None:
        self.attempt = None
        self._take(self.dialled, outcome)

    def dialled(self, outcome: DialOutcome) -> None:
        """Goes on with the connection that the dial has brought, or tells the client why there is none."""
        decision = self.grant.decision
        if isinstance(outcome, DialError):
            failure = answers.not_dialled(outcome)
            self.turn_away(answers.failed(failure, decision, self.grant.id))
            raise _EndedError(failure.cause)
        if isinstance(outcome, ExhaustedError):
            raise _EndedError(self.refuse(decision.denied(Reason.INTERNAL_ERROR)))
        self.upstream = outcome
        self._services.metrics.upstream_connected(time.perf_counter() - self._dialled_at)
        if self.established:
            # Inspected, but without TLS to open (passed in report mode only): a tunnel like any other.
            self.begin_relay()
            return
        self.establish()
        # Where nothing can turn out wrong, nothing is waited for: the server may be the one who speaks first.
        if needs_hello(decision):
            self.hello()
        elif decision.must_be_ssh:
            self.begin_relay(SshGuard(self))
        else:
            self.server_names = Unread.NOT_TLS
            self.begin_relay()

    # The ClientHello.

    def hello(self, seconds: float | None = None) -> None:
        """Waits for the whole of it, for so long or as long as the settings say."""
        client = self.client
        self._hello = ClientHelloReader()
        self._read_hello()
        if self._hello is not None:
            if seconds is None:
                seconds = hello_seconds(self.grant.decision, self._services.settings.client_hello_timeout)
            client.arm(seconds, self._hello_late)
            if client.eof:
                self._hello_missing()
            else:
                client.read_on()

    def _read_hello(self) -> None:
        reader, buffer = self._hello, self.client.buffer
        if reader is not None and (fresh := buffer[len(reader.received) :]):
            outcome = reader.feed(fresh)
            if outcome is not Unread.NEED_MORE:
                self._hello_read(outcome, reader.end)

    def _hello_read(self, outcome: ServerNames | Unread, size: int = 0) -> None:
        """A whole ClientHello of `size` bytes is there, or what cannot be one."""
        self._hello = None
        self.client.disarm()
        self.server_names = outcome
        granted = self.grant.decision
        decision = decide_tunnel(granted, None if isinstance(outcome, Unread) else outcome)
        if not decision.passes:
            raise _EndedError(self.refuse(decision))
        self._services.enforcer.amend(self.grant, decision)
        if self.upstream is not None:
            # Where another name is only reported, nothing more is to be found out.
            if isinstance(outcome, tuple) and decision is granted:
                self.begin_watched_relay(size)
            else:
                self.begin_relay()
        elif outcome is Unread.NOT_TLS:
            self.dial()
        else:
            self._begin_inspection()

    def _hello_late(self) -> None:
        self._take(self._hello_read, Unread.NOT_TLS)

    def _hello_missing(self) -> None:
        """FIN before the end of a hello: a client that changed its mind, or one that speaks something else."""
        if self._hello is None or not self._hello.received:
            self.client.transport.close()
            raise _EndedError("closed")
        self._hello_read(Unread.NOT_TLS)

    # The client meanwhile: the transport's side.

    def data_received(self, data: bytes) -> None:
        client = self.client
        try:
            if client.lingers:
                client.drop(data)
                return
            client.buffer += data
            if self._hello is not None:
                self._take(self._read_hello)
            if self._hello is None and not (client.lingers or client.streamed):
                client.hold()
        except Exception:  # noqa: BLE001  logged there; whatever it was, the connection must not go on
            client.failed()

    def eof_received(self) -> bool:
        self.client.eof = True
        if self._hello is not None:
            self._take(self._hello_missing)
        # A client may send FIN right behind its hello and still wait for the answer, so the connection is kept.
        return not (self.client.lingers or self.client.streamed)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's interface
        if not self._settled:
            self._give_up(self.client.cause or "client_reset")
        self.client.ended()

    # What becomes of it.

    def inspect(self) -> None:
        """In the place of the dial: the inspection dials for each request, once it is known what is asked for."""
        if self._services.inspector is None:
            raise _EndedError(self.refuse(self.grant.decision.denied(Reason.INTERNAL_ERROR)))
        self.establish()
        self.hello()

    def _begin_inspection(self) -> None:
        inspector = self._services.inspector
        if inspector is None:
            raise ValueError("an inspection without an inspector")
        self._settled = True
        self.client.run(serve_inspected(self, inspector))

    def begin_relay(self, guard: RelayGuard | None = None, answered: bytes = b"") -> None:
        """Bytes both ways; `answered` is what the upstream has said already, where somebody else has asked it."""
        client, upstream = self.client, self.upstream
        if upstream is None:
            raise ValueError("a relay without an upstream")
        relay = Relay(
            client.transport,
            client.take,
            self.grant.charge,
            on_end=self._relay_ended,
            clock=time.monotonic,
            splicer=self._services.splicer,
            guard=guard,
            answered=answered,
        )
        self.count()
        self.upstream = None
        self.relay = relay
        # A task of its own, for the client's ends with the client: half-way, nobody could say whose the socket is.
        self._joining = asyncio.Task(self._join(relay, upstream), loop=asyncio.get_running_loop(), eager_start=True)

    def begin_watched_relay(self, judged: int, answered: bytes = b"") -> None:
        """Where the server may ask for another ClientHello; the first `judged` bytes of the client's are decided."""
        self.begin_relay(HelloGuard(self, judged), answered)

    async def _join(self, relay: Relay, upstream: Socket) -> None:
        """Gives the upstream's socket to the loop, which takes it over at its next turn, and with it the relay."""
        client = self.client
        try:
            await join(upstream, lambda: relay.upstream)
        except Exception:  # noqa: BLE001  logged there; whatever it was, the connection must not go on
            upstream.close()
            self._give_up(Reason.INTERNAL_ERROR.value)
            client.failed()
            return
        self._joining = None
        self._settled = True
        if not relay.started:
            self._give_up(client.cause or "client_reset")
        elif client.eof and not self.finished:
            relay.client.eof_received()  # the loop told it to the connection, and will not tell it again

    def _relay_ended(self, cause: str) -> None:
        try:
            self.end(cause)
        finally:
            self._services.forget(self.client)

    def _give_up(self, cause: str) -> None:
        """Ends what has not become a relay or an inspection. Once; the client was told, or is gone."""
        if self.finished:
            return
        self._settled = True
        self._hello = None
        self.end(cause)
