"""A granted CONNECT on its way to a tunnel or to the inspection.

The order of a tunnel: identify, authorise, dial a checked address, 200, read the whole ClientHello, `decide_tunnel`,
and only then the first client byte goes upstream. The dial comes before the 200 because a 502 can be told only then;
it is the one thing that a grant permits before the hello is seen. An inspected tunnel dials nothing here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from socket import socket as Socket  # noqa: N812  the type, beside variables of that name

from cloned_proxy.policy.deciding.decide import decide_tunnel, needs_hello
from cloned_proxy.policy.terms.decision import Decision
from cloned_proxy.policy.terms.vocabulary import Reason
from cloned_proxy.proxy.enforce import answers
from cloned_proxy.proxy.enforce.answers import Answer
from cloned_proxy.proxy.grants.grant import Grant
from cloned_proxy.proxy.transport.relay import Relay, reset
from cloned_proxy.proxy.transport.relay_guard import RelayGuard
from cloned_proxy.proxy.tunnel.connection import ClientConnection
from cloned_proxy.proxy.tunnel.hello_guard import HelloGuard, hello_seconds
from cloned_proxy.proxy.tunnel.inspected import serve_inspected
from cloned_proxy.proxy.tunnel.last_words import last_words
from cloned_proxy.proxy.tunnel.resumption import Resumption
from cloned_proxy.proxy.tunnel.ssh_guard import SshGuard
from cloned_proxy.proxy.upstream.dial import DialAttempt, DialError, DialOutcome, ExhaustedError, join
from cloned_proxy.proxy.wire.client_hello import ClientHelloReader, ServerNames, Unread


class _EndedError(Exception):
    """The tunnel is not to be; the client was told. The message is the cause that goes on record."""


class Passage:
    """One granted CONNECT, until its relay or its inspection ends: a `Tunnel`. The grant goes back exactly once.

    Steps, not a task: nearly every tunnel waits for nothing but its dial and its ClientHello.
    """

    __slots__ = ("_connection", "_counted", "_dial", "_dialled_at", "_established", "_joining", "_over", "_parts",
                 "_reader", "_seen", "_since", "_upstream", "grant", "server_names")  # fmt: skip

    def __init__(self, connection: ClientConnection, grant: Grant) -> None:
        self._connection = connection
        self._parts = connection.parts
        self.grant = grant
        self.server_names: ServerNames | Unread = Unread.NEED_MORE
        self._since = time.monotonic()
        self._established = False
        self._counted = False
        self._over = False
        self._dial: DialAttempt | None = None
        self._dialled_at = 0.0
        self._upstream: Socket | None = None
        """Connected, and not in a relay yet."""
        self._reader: ClientHelloReader | None = None
        """While the ClientHello is waited for."""
        self._seen = 0
        self._joining: asyncio.Task[None] | None = None

    def begin(self) -> None:
        self._parts.tunnels.add(self)
        self._connection.settling = self
        self._take(self._begin_inspected if self.grant.decision.inspect else self._begin_dial)

    def resume(self, at: Resumption) -> None:
        """In the place of `begin`."""
        self._parts.tunnels.add(self)
        self._connection.settling = self
        self._take(partial(self._resume, at))
        if not self._over:
            self._parts.tunnels.look_at(self)  # what was revoked on the way from there to here

    def _resume(self, at: Resumption) -> None:
        parts = self._parts
        if at.failure is not None:
            self._dialled(parts.ways.failed(self.grant, at.failure))
            return
        if at.asked and at.upstream is not None:
            self._dialled_at = time.perf_counter() - parts.settings.connect_timeout + at.seconds
            self._dial = parts.ways.answered(self.grant, (at.upstream, at.seconds), self._dial_ended)
            self._dial.start()
            return
        self._established = True
        self._upstream = at.upstream
        if not at.guarded:
            self._begin_hello(at.seconds)
            return
        host = self.grant.decision.host
        self.server_names = (host.text,) if host is not None and host.address is None else ()
        self._relay(HelloGuard(self._connection, self.grant, 0), at.server_bytes)

    def _take(self, step: Callable[[], None]) -> None:
        """Takes one step. Whatever goes wrong in it ends the tunnel, and nothing is left open."""
        if self._over:
            return
        try:
            step()
        except _EndedError as ended:
            self._give_up(str(ended))
        except Exception:  # noqa: BLE001  logged there; whatever it was, the connection must not go on
            self._give_up(Reason.INTERNAL_ERROR.value)
            self._connection.failed()

    # The dial.

    def _begin_dial(self) -> None:
        self._dialled_at = time.perf_counter()
        self._dial = self._parts.ways.attempt(self.grant, self._dial_ended)
        self._dial.start()

    def _dial_ended(self, outcome: DialOutcome) -> None:
        self._dial = None
        self._take(partial(self._dialled, outcome))

    def _dialled(self, outcome: DialOutcome) -> None:
        grant = self.grant
        if isinstance(outcome, DialError):
            failure = answers.not_dialled(outcome)
            self._turn_away(answers.failed(failure, grant.decision, grant.id))
            raise _EndedError(failure.cause)
        if isinstance(outcome, ExhaustedError):
            raise self._refused_as(grant.decision.denied(Reason.INTERNAL_ERROR))
        self._upstream = outcome
        self._parts.metrics.upstream_connected(time.perf_counter() - self._dialled_at)
        if self._established:
            # Inspected, but without TLS to open (passed in report mode only): a tunnel like any other.
            self._relay()
            return
        self._established = True
        self._connection.established()
        # Where nothing can turn out wrong, nothing is waited for: the server may be the one who speaks first.
        if needs_hello(grant.decision):
            self._begin_hello()
        elif grant.decision.must_be_ssh:
            self._relay(SshGuard(self._connection, self))
        else:
            self.server_names = Unread.NOT_TLS
            self._relay()

    # The ClientHello.

    def _begin_hello(self, seconds: float | None = None) -> None:
        connection = self._connection
        self._reader = ClientHelloReader()
        self._read_hello()
        if self._reader is not None:
            if seconds is None:
                seconds = hello_seconds(self.grant.decision, self._parts.settings.client_hello_timeout)
            connection.arm(seconds, lambda: self._take(partial(self._hello_read, Unread.NOT_TLS)))
            if connection.eof:
                self._hello_missing()
            else:
                connection.read_on()

    def _read_hello(self) -> None:
        reader, fresh = self._reader, self._connection.peek(self._seen)
        if reader is None or not fresh:
            return
        self._seen += len(fresh)
        outcome = reader.feed(fresh)
        if outcome is not Unread.NEED_MORE:
            self._hello_read(outcome, reader.end)

    def _hello_read(self, outcome: ServerNames | Unread, size: int = 0) -> None:
        """A whole ClientHello of `size` bytes is there, or what cannot be one."""
        self._reader = None
        self._connection.disarm()
        self.server_names = outcome
        decision = decide_tunnel(self.grant.decision, None if isinstance(outcome, Unread) else outcome)
        if not decision.passes:
            raise self._refused_as(decision)
        self._parts.enforcer.amend(self.grant, decision)
        if self._upstream is not None:
            # Where another name is only reported, nothing more is to be found out.
            watched = isinstance(outcome, tuple) and decision is self.grant.decision
            self._relay(HelloGuard(self._connection, self.grant, size) if watched else None)
        elif outcome is Unread.NOT_TLS:
            self._begin_dial()
        else:
            self._begin_inspection()

    def _hello_missing(self) -> None:
        """FIN before the end of a hello: a client that changed its mind, or one that speaks something else."""
        if not self._seen:
            self._connection.transport.close()
            raise _EndedError("closed")
        self._hello_read(Unread.NOT_TLS)

    # The client meanwhile.

    def client_sent(self) -> bool:
        if self._reader is not None:
            self._take(self._read_hello)
        return self._reader is not None

    def client_ended(self) -> None:
        if self._reader is not None:
            self._take(self._hello_missing)

    def client_lost(self) -> None:
        self._give_up(self._connection.cause or "client_reset")

    # What becomes of it.

    def _begin_inspected(self) -> None:
        if self._parts.inspector is None:
            raise self._refused_as(self.grant.decision.denied(Reason.INTERNAL_ERROR))
        self._established = True
        self._connection.established()
        self._begin_hello()

    def _begin_inspection(self) -> None:
        connection, inspector = self._connection, self._parts.inspector
        if inspector is None:
            raise ValueError("an inspection without an inspector")
        inspected = serve_inspected(connection, inspector, self.grant, on_begin=self._count, on_end=self._end)
        connection.run(inspected)

    def _relay(self, guard: RelayGuard | None = None, answered: bytes = b"") -> None:
        connection, upstream = self._connection, self._upstream
        if upstream is None:
            raise ValueError("a relay without an upstream")
        relay = Relay(
            connection.transport,
            connection.take,
            self.grant.charge,
            on_end=self._relay_ended,
            clock=time.monotonic,
            splicer=self._parts.splicer,
            guard=guard,
            answered=answered,
        )
        self._count()
        self._upstream = None
        connection.relay = relay
        # Not the connection's task, which ends with the client: half-way, nobody could say whose the socket is.
        self._joining = asyncio.Task(self._join(relay, upstream), loop=asyncio.get_running_loop(), eager_start=True)

    async def _join(self, relay: Relay, upstream: Socket) -> None:
        """Gives the upstream's socket to the loop, which takes it over at its next turn, and with it the relay."""
        connection = self._connection
        try:
            await join(upstream, lambda: relay.upstream)
        except Exception:  # noqa: BLE001  logged there; whatever it was, the connection must not go on
            upstream.close()
            self._give_up(Reason.INTERNAL_ERROR.value)
            connection.failed()
            return
        self._joining = None
        connection.settling = None
        if not relay.started:
            self._give_up(connection.cause or "client_reset")
        elif connection.eof:
            relay.client.eof_received()  # the loop told it to the connection, and will not tell it again

    def _relay_ended(self, cause: str) -> None:
        self._connection.relay = None
        try:
            self._end(cause)
        finally:
            self._parts.forget(self._connection)

    def _refused_as(self, decision: Decision) -> _EndedError:
        """Puts the refusal on record, tells the client, and returns what ends the tunnel."""
        refusal = self._parts.enforcer.amend(self.grant, decision)
        answer = answers.refused(refusal) if refusal is not None else answers.unavailable()
        self._turn_away(answer)
        return _EndedError(f"refused:{decision.reason.value}")

    def _turn_away(self, answer: Answer) -> None:
        connection = self._connection
        if not self._established:
            connection.answer(answer)
        elif last := last_words(self.server_names, connection.peek(), answer):
            connection.close_after(last)
        else:
            reset(connection.transport)

    def _count(self) -> None:
        self._counted = True
        self._parts.metrics.tunnel_opened(self.grant.caller.tool)

    def _give_up(self, cause: str) -> None:
        """Ends what has not become a relay or an inspection. Once; the client was told, or is gone."""
        if self._over:
            return
        self._over = True
        self._reader = None
        self._connection.settling = self._connection.relay = None
        dial, self._dial = self._dial, None
        if dial is not None:
            dial.cancel()
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.close()
        self._end(cause)

    def _end(self, cause: str) -> None:
        self._parts.tunnels.discard(self)
        if self._counted:
            self._counted = False
            self._parts.metrics.tunnel_closed(self.grant.caller.tool)
        self._parts.enforcer.finish(self.grant, cause)

    # For the registry of tunnels.

    def cut_off(self, cause: str) -> None:
        self._connection.cut(cause)

    def last_byte(self) -> float:
        relay = self._connection.relay
        if relay is not None:
            return relay.last_byte
        # Before the relay the deadlines of the hello and the dial hold; an inspection watches its own flow.
        return time.monotonic() if self._counted else self._since
