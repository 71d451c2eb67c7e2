"""One client connection of the gate: reads one head, strictly, and gives its client to whoever serves that."""

from __future__ import annotations

import asyncio
from typing import cast

from cloned_proxy.proxy.transport.listener import Listener
from cloned_proxy.proxy.tunnel.client import Client
from cloned_proxy.proxy.tunnel.closing import ClosingOnFailure
from cloned_proxy.proxy.tunnel.connect_tunnel import ConnectTunnel
from cloned_proxy.proxy.tunnel.gate_services import GateServices
from cloned_proxy.proxy.tunnel.refused_head import answer_to_head, head_caller
from cloned_proxy.proxy.wire.head import EMPTY_LINE, FIRST_OF_TOKEN, HeadError
from cloned_proxy.telemetry.events import Kind


class ClientConnection(Client, asyncio.Protocol):
    """A client whose first head is being read. Whatever goes wrong in that ends it and forwards nothing."""

    __slots__ = ("_searched",)

    def __init__(self, services: GateServices, listener: Listener) -> None:
        super().__init__(services, listener)
        self._searched = 0

    # The transport's side, until somebody else has the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not subclass `asyncio.Transport`; hence the cast.
        self.transport = cast(asyncio.Transport, transport)
        self.services.arrived(self)
        self.arm(self.services.settings.head_timeout, self._head_timed_out)

    def data_received(self, data: bytes) -> None:
        try:
            if self.lingers:
                self.drop(data)
                return
            begun = bool(self.buffer)
            self.buffer += data
            if self.asked:
                self.hold()
            elif not self._look_for_head() and not begun:
                self.heard_at = self._loop.time()
                self.arm(self.services.settings.head_timeout, self._head_timed_out)
        except Exception:  # noqa: BLE001  logged there; whatever it was, the connection must not go on
            self.failed()

    def eof_received(self) -> bool:
        self.eof = True
        # A client may send FIN right behind its request and still wait for the answer, so the connection is kept.
        return self.asked and not (self.lingers or self.streamed)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's interface
        self.ended()

    # The head.

    def _look_for_head(self) -> bool:
        """Whether it is settled what the bytes so far are."""
        buffer, limit = self.buffer, self.services.settings.max_head_bytes
        found = EMPTY_LINE.search(buffer, max(0, self._searched - 2))
        self._searched = len(buffer)
        if FIRST_OF_TOKEN.match(buffer) is None:
            self._refuse_head(HeadError("this is an HTTP proxy, and these bytes are not HTTP"))
        elif (found.end() if found is not None else len(buffer)) > limit:
            self._refuse_head(HeadError(f"a request head of more than {limit} bytes", status=431))
        elif found is not None:
            self._read_head(bytes(buffer[: found.end()]))
        else:
            return False
        return True

    def _read_head(self, data: bytes) -> None:
        self.put_off()
        known = None if self.source_address else self.services.refusals.answer(self.listener, data)
        if known is not None:
            self.asked = True
            self.close_after(known)
            return
        try:
            head = self.read_head(data)
        except HeadError as error:
            self._refuse_head(error)
            return
        del self.buffer[: len(data)]
        self.asked = True
        if head.method != "CONNECT":
            self.disarm()
            self.services.plain.serve(self, head)
            return
        ConnectTunnel(self).start(head, data)

    def _head_timed_out(self) -> None:
        with ClosingOnFailure(self):
            if self.buffer:
                self._refuse_head(HeadError("the request head did not come in time", status=408))
            else:
                self.transport.abort()

    def _refuse_head(self, error: HeadError) -> None:
        kind = Kind.TUNNEL if self.buffer.startswith(b"CONNECT ") else Kind.HTTP
        self.asked = True
        self.disarm()
        self.run(self._refused_head(error, kind))

    async def _refused_head(self, error: HeadError, kind: Kind) -> None:
        caller = head_caller(self.services, self.listener, error, self.source_address)
        await self.services.enforcer.breath(caller)
        self.answer(answer_to_head(self.services, caller, error, kind))
