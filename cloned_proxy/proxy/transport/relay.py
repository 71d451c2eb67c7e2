"""Bytes between two transports: back-pressure and half-close both ways, every byte counted, the end told once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from cloned_proxy.proxy.grants.budget import Charge
from cloned_proxy.proxy.transport.bulk import BULK_BYTES, BULK_SECONDS, BulkFlow, Splicer
from cloned_proxy.proxy.transport.relay_guard import RelayGuard, TurnedAwayError
from cloned_proxy.proxy.transport.reset import reset
from cloned_proxy.proxy.transport.splice import PumpEnd


class Relay:
    """One open tunnel, from the moment its upstream transport exists.

    `unread` takes what the client has sent before; `client` may be paused and loses its old protocol. `on_end` gets
    the cause once, when both sides are closed: `closed`, `client_reset`, `upstream_error:response`, or that of `cut`.
    Without a `splicer` every byte goes through the transports, and so it does while there is a `guard`.
    """

    __slots__ = ("_answered", "_charge", "_clock", "_on_end", "_open_ends", "_unread", "cause", "client", "guard",
                 "last_byte", "splicer", "upstream")  # fmt: skip

    def __init__(
        self,
        client: asyncio.Transport,
        unread: Callable[[], bytes],
        charge: Charge,
        *,
        on_end: Callable[[str], None],
        clock: Callable[[], float],
        splicer: Splicer | None = None,
        guard: RelayGuard | None = None,
        answered: bytes = b"",
    ) -> None:
        """`answered` is what the upstream has said before it comes to `start`."""
        self.splicer = splicer
        self.guard = guard
        self._unread = unread
        self._answered = answered
        self._charge = charge
        self._on_end = on_end
        self._clock = clock
        self._open_ends = 0
        self.cause = ""
        self.last_byte = clock()
        """When the last byte passed: what the idle timeout looks at."""
        self.client = RelayEnd(self, charge.up)
        self.upstream = RelayEnd(self, charge.down)
        self.client.other = self.upstream
        self.upstream.other = self.client
        self.client.transport = client

    @property
    def started(self) -> bool:
        """Whether both sides are joined; a client that is gone when the upstream comes leaves a relay unstarted."""
        return self.upstream.transport is not None

    def start(self, upstream: asyncio.Transport) -> None:
        """Joins the two; called once, by the upstream side when it is connected."""
        client = self.client.transport
        if client is None:  # cannot be: set at birth
            raise RuntimeError("a relay without a client")
        if client.is_closing():
            reset(upstream)
            return
        self.upstream.transport = upstream
        self._open_ends = 2
        client.set_protocol(self.client)
        first = self._unread()
        if self.guard is not None:
            first = self.guarded(self.client, first)
        if first:
            self._charge.up(len(first))
            upstream.write(first)
        if not self.upstream.full and not client.is_closing():
            client.resume_reading()
        answered, self._answered = self._answered, b""
        if answered:
            self.upstream.data_received(answered)

    def guarded(self, end: RelayEnd, data: bytes) -> bytes:
        """What of the bytes that came at `end` passes now."""
        guard = self.guard
        if guard is None:
            return data
        try:
            data = guard.from_client(data) if end is self.client else guard.from_server(data)
        except TurnedAwayError as refused:
            self._turn_away(refused)
            return b""
        if guard.done:
            self.end_guard()
        return data

    def end_guard(self) -> None:
        guard, self.guard = self.guard, None
        upstream = self.upstream.transport
        if guard is not None and (held := guard.release()) and upstream is not None:
            self._charge.up(len(held))
            upstream.write(held)

    def _turn_away(self, refused: TurnedAwayError) -> None:
        client, upstream = self.client.transport, self.upstream.transport
        if not refused.last or client is None or upstream is None:
            self.cut(refused.cause)
            return
        self.cause = self.cause or refused.cause
        client.write(refused.last)
        reset(upstream)
        client.close()

    def cut(self, cause: str) -> None:
        """Resets both sides."""
        self.cause = self.cause or cause
        for end in (self.client, self.upstream):
            end.stop_splicing()
        for end in (self.client, self.upstream):
            if end.transport is not None:
                reset(end.transport)

    def touch(self) -> float:
        self.last_byte = now = self._clock()
        return now

    def cause_of(self, end: RelayEnd) -> str:
        """What goes on record when the connection of `end` fails."""
        return "client_reset" if end is self.client else "upstream_error:response"

    def end_closed(self, end: RelayEnd, error: Exception | None) -> None:
        if not self.started:
            self._untie()
            return
        if not self.cause and error is not None:
            self.cause = self.cause_of(end)
        # Before the other side is reset or closed: a connection lasts as long as its last descriptor.
        self.client.stop_splicing()
        self.upstream.stop_splicing()
        self._open_ends -= 1
        other = end.other.transport
        if self._open_ends == 0:
            self._untie()
            self._on_end(self.cause or "closed")
        elif other is not None and error is not None:
            reset(other)
        elif other is not None:
            other.close()  # what is buffered for it still goes out

    def _untie(self) -> None:
        """Breaks the reference cycles, once nothing calls in here any more.

        Otherwise dead relays pile up until the garbage collector runs, and its pass stalls every tunnel.
        """
        guard, self.guard = self.guard, None
        if guard is not None:
            guard.release()
        for end in (self.client, self.upstream):
            end.untie()


class RelayEnd(asyncio.Protocol):
    """One side: what arrives here is written to `other`."""

    __slots__ = ("_bulk", "_count", "_relay", "_window", "_window_bytes", "eof", "full", "other", "transport")

    def __init__(self, relay: Relay, count: Callable[[int], None]) -> None:
        self._relay = relay
        self._count = count
        self.transport: asyncio.Transport | None = None
        self.other: RelayEnd
        self.eof = False
        """The peer of this side has sent FIN."""
        self.full = False
        """The write buffer of this side is over the mark, so the other side is not read."""
        self._bulk: BulkFlow | None = None
        """Set while what it sends goes to `other` through a pump, or is about to."""
        self._window = 0.0
        self._window_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Only the upstream side gets here; the client's transport is handed over while it is open.
        try:
            self._relay.start(cast(asyncio.Transport, transport))
        except Exception:
            transport.close()
            self._relay.cut("internal_error")
            raise

    def data_received(self, data: bytes) -> None:
        other = self.other.transport
        if other is None or other.is_closing():
            return
        relay = self._relay
        try:
            if relay.guard is not None and not (data := relay.guarded(self, data)):
                return
            self._count(len(data))
            now = relay.touch()
            other.write(data)
            if relay.guard is None:
                self._weigh(len(data), now)
        except Exception:
            relay.cut("internal_error")
            raise

    def eof_received(self) -> bool:
        guard = self._relay.guard
        if guard is not None and guard.holds and self is self._relay.client:
            self._relay.cut("client_reset")  # in the middle of a hello: what there is of it may not pass
            return False
        other = self.other.transport
        if other is None or other.is_closing():
            self.eof = True
            return False
        if not self.other.eof:  # else both close now, which says it as well
            other.write_eof()
        self._ended()
        return True

    def _ended(self) -> None:
        """The FIN of this side has come and was passed on."""
        self.eof = True
        if self.other.eof:
            # Both have sent FIN: nothing can come any more. `close` sends what is buffered, then lets go of the socket.
            for end in (self, self.other):
                if end.transport is not None:
                    end.transport.close()

    def pause_writing(self) -> None:
        self.full = True
        source = self.other.transport
        if source is not None and not source.is_closing():
            source.pause_reading()

    def resume_writing(self) -> None:
        self.full = False
        if self.other.splicing_waits():
            return
        source = self.other.transport
        # A loop that resumed a source behind its FIN would tell the FIN again.
        if source is not None and not source.is_closing() and not self.other.eof:
            source.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._relay.end_closed(self, exc)

    def untie(self) -> None:
        del self.other, self._relay

    # Bulk.

    def stop_splicing(self) -> None:
        bulk, self._bulk = self._bulk, None
        if bulk is not None:
            bulk.stop()

    def splicing_waits(self) -> bool:
        """Tells a pump that the other side has written everything; False when there is none."""
        if self._bulk is None:
            return False
        self._bulk.sink_drained()
        return True

    def _weigh(self, count: int, now: float) -> None:
        """Moves this direction to a pump once it is bulk."""
        if now - self._window > BULK_SECONDS:
            self._window = now
            self._window_bytes = 0
        self._window_bytes += count
        if self._window_bytes >= BULK_BYTES:
            self._window_bytes = 0
            self._splice()

    def _splice(self) -> None:
        splicer, mine, other = self._relay.splicer, self.transport, self.other.transport
        if splicer is None or mine is None or other is None or self._bulk is not None:
            return
        bulk = BulkFlow(splicer, mine, other, on_bytes=self._spliced, on_end=self._splicing_ended)
        if splicer.join(bulk):
            self._bulk = bulk
            bulk.begin()

    def _spliced(self, count: int) -> None:
        try:
            self._count(count)
            self._relay.touch()
        except Exception:
            self._relay.cut("internal_error")
            raise

    def _splicing_ended(self, end: PumpEnd) -> None:
        self._bulk = None
        match end:
            case PumpEnd.EOF:
                self._ended()
            case PumpEnd.SOURCE_FAILED:
                self._relay.cut(self._relay.cause_of(self))
            case PumpEnd.SINK_FAILED:
                self._relay.cut(self._relay.cause_of(self.other))
            case PumpEnd.NO_PIPE:
                if self.transport is not None and not self.transport.is_closing() and not self.other.full:
                    self.transport.resume_reading()
