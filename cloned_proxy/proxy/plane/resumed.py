"""Connections that the plane hands over, which go on here as if the gate had accepted them."""

from __future__ import annotations

import asyncio
import enum
import socket
from typing import Final, NamedTuple, cast

from cloned_proxy.proxy.enforce.answers import UpstreamFailure
from cloned_proxy.proxy.grants.grant import Grant
from cloned_proxy.proxy.http1.underway import Underway
from cloned_proxy.proxy.transport.listener import Listener
from cloned_proxy.proxy.tunnel.connect_tunnel import ConnectTunnel
from cloned_proxy.proxy.tunnel.connection import ClientConnection
from cloned_proxy.proxy.tunnel.gate_services import GateServices
from cloned_proxy.proxy.tunnel.resumption import Resumption, resume
from cloned_proxy.proxy.upstream.dial import DialError, ExhaustedError
from cloned_proxy.proxy.wire.head import Head


class Stage(enum.IntEnum):
    """At which boundary a connection came: `shared::Stage`."""

    HEAD = 0
    UNREACHABLE = 1
    LATE = 2
    EXHAUSTED = 3
    HELLO = 4
    GUARD = 5
    ASKED = 6
    PLAIN = 7
    EXCHANGE = 8
    BROKEN = 9
    SILENT = 10
    UNKNOWN = 11


STAGES: Final = tuple(Stage)
"""The stages by number."""


class Handed(NamedTuple):
    """One connection, and how far it has come."""

    stage: Stage
    sock: socket.socket
    listener: Listener
    client_bytes: bytes
    grant: Grant | None = None
    """Set from the dial on."""
    upstream: socket.socket | None = None
    server_bytes: bytes = b""
    seconds: float = 0.0
    """Seconds that are left for a ClientHello, or for the answer of the proxy in front."""
    underway: Underway | None = None
    """A plain request, with its grant and its upstream."""
    head: Head | None = None
    """The one at the start of `client_bytes`, where it was read already."""

    def close(self) -> None:
        """Closes what nobody takes over."""
        self.sock.close()
        if self.upstream is not None:
            self.upstream.close()


class HandedConnection(ClientConnection):
    """Begins with what the plane has read. It has its place before it has a transport: `GateServices.keep`."""

    __slots__ = ("_handed", "_head")

    def __init__(self, services: GateServices, handed: Handed) -> None:
        super().__init__(services, handed.listener)
        self._handed: Handed | None = handed
        self._head = handed.head

    def read_head(self, data: bytes) -> Head:
        head, self._head = self._head, None
        return super().read_head(data) if head is None else head

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        handed, self._handed = self._handed, None
        if handed is None:
            raise ValueError("a connection is made once")
        self.transport = cast(asyncio.Transport, transport)
        self.services.arrived(self)
        if handed.underway is not None:
            self.services.plain.resume(self, handed.underway)
        elif handed.stage is Stage.PLAIN:
            self.services.plain.resume(self, handed.client_bytes)
        elif handed.grant is None:
            self.arm(self.services.settings.head_timeout, self._head_timed_out)
            self.data_received(handed.client_bytes)
        else:
            resume(ConnectTunnel(self), handed.grant, _resumption(handed), handed.client_bytes)


def failure_at(stage: Stage) -> DialError | ExhaustedError | UpstreamFailure | None:
    """Why there is no upstream."""
    match stage:
        case Stage.UNREACHABLE:
            return DialError("the upstream cannot be reached")
        case Stage.LATE:
            return DialError("the upstream did not answer in time", timed_out=True)
        case Stage.EXHAUSTED:
            return ExhaustedError("no file descriptor is left")
        case Stage.BROKEN | Stage.SILENT:
            return UpstreamFailure("response", timed_out=stage is Stage.SILENT)
        case _:
            return None


def _resumption(handed: Handed) -> Resumption:
    failure = failure_at(handed.stage)
    if isinstance(failure, DialError | ExhaustedError):
        return Resumption(failure=failure)
    match handed.stage:
        case Stage.HELLO:
            return Resumption(handed.upstream, seconds=handed.seconds)
        case Stage.GUARD:
            return Resumption(handed.upstream, guarded=True, server_bytes=handed.server_bytes)
        case Stage.ASKED:
            return Resumption(handed.upstream, seconds=handed.seconds, asked=True)
        case _:
            raise ValueError(handed.stage)
