"""One client connection of the gate: reads one head, strictly, and gives its client to whoever serves that."""

from __future__ import annotations

import asyncio
from typing import cast

from cloned_proxy.proxy.transport.listener import Listener
from cloned_proxy.proxy.tunnel.client import Client
from cloned_proxy.proxy.tunnel.connect_tunnel import ConnectTunnel
from cloned_proxy.proxy.tunnel.parts import GateParts
from cloned_proxy.proxy.tunnel.refused_head import answer_to_head, head_caller
from cloned_proxy.proxy.wire.head import EMPTY_LINE, FIRST_OF_TOKEN, HeadError
from cloned_proxy.telemetry.events import Kind


class ClientConnection(asyncio.Protocol):
    """Until its first head is settled. Whatever goes wrong in here ends the connection and forwards nothing."""

    __slots__ = ("_read", "_searched", "client")

    def __init__(self, parts: GateParts, listener: Listener) -> None:
        self.client = self.client_of(parts, listener)
        self._searched = 0
        self._read = False
        """It is settled what the bytes are; what becomes of them may not be, yet."""

    def client_of(self, parts: GateParts, listener: Listener) -> Client:
        return Client(parts, listener, self)

    # The transport's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not subclass `asyncio.Transport`; hence the cast.
        client = self.client
        client.transport = cast(asyncio.Transport, transport)
        client.parts.arrived(client)
        client.arm(client.parts.settings.head_timeout, self._head_timed_out)

    def data_received(self, data: bytes) -> None:
        client = self.client
        try:
            if client.lingers:
                client.drop(data)
                return
            begun = bool(client.buffer)
            client.buffer += data
            if self._read:
                client.hold()
            elif not self._look_for_head() and not begun:
                client.arm(client.parts.settings.head_timeout, self._head_timed_out)
        except Exception:  # noqa: BLE001  logged there; whatever it was, the connection must not go on
            client.failed()

    def eof_received(self) -> bool:
        self.client.eof = True
        # A client may send FIN right behind its request and still wait for the answer, so the connection is kept.
        return self._read and not (self.client.lingers or self.client.streamed)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's interface
        self.client.ended()

    # For the gate.

    @property
    def quiet(self) -> bool:
        return not (self._read or self.client.lingers or self.client.buffer)

    @property
    def quiet_since(self) -> float:
        return self.client.deadline - self.client.parts.settings.head_timeout

    def cut(self, cause: str) -> None:  # noqa: ARG002  the client keeps it
        self.client.reset()

    # The head.

    def _look_for_head(self) -> bool:
        """Whether it is settled what the bytes so far are."""
        buffer, limit = self.client.buffer, self.client.parts.settings.max_head_bytes
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
        client = self.client
        client.put_off()
        known = None if client.source_address else client.parts.refusals.answer(client.listener, data)
        if known is not None:
            client.close_after(known)
            return
        try:
            head = client.read_head(data)
        except HeadError as error:
            self._refuse_head(error)
            return
        del client.buffer[: len(data)]
        self._read = True
        if head.method != "CONNECT":
            client.disarm()
            client.parts.plain.serve(client, head)
            return
        ConnectTunnel(client).start(head, data)

    def _head_timed_out(self) -> None:
        try:
            if self.client.buffer:
                self._refuse_head(HeadError("the request head did not come in time", status=408))
            else:
                self.client.transport.abort()
        except Exception:  # noqa: BLE001  logged there; whatever it was, the connection must not go on
            self.client.failed()

    def _refuse_head(self, error: HeadError) -> None:
        kind = Kind.TUNNEL if self.client.buffer.startswith(b"CONNECT ") else Kind.HTTP
        self._read = True
        self.client.disarm()
        self.client.run(self._refused_head(error, kind))

    async def _refused_head(self, error: HeadError, kind: Kind) -> None:
        client, parts = self.client, self.client.parts
        caller = head_caller(parts, client.listener, error, client.source_address)
        await parts.enforcer.breath(caller)
        client.answer(answer_to_head(parts, caller, error, kind))
