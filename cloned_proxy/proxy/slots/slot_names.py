"""Everything that answers for names in one slot: its name server, and the listeners where dialled names arrive."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network
from typing import Final

import structlog

from cloned_proxy.local.slot_protocol import NamesHandover, SlotProtocolError
from cloned_proxy.local.slot_sockets import check_name_server, check_spare, check_steered
from cloned_proxy.policy.callers.caller import Principal
from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.terms.vocabulary import DEFAULT_PORTS
from cloned_proxy.proxy.gate.gate import Gate
from cloned_proxy.proxy.slots.name_server import NameServer
from cloned_proxy.proxy.transport.listener import Listener
from cloned_proxy.proxy.transport.name_tags import NameTags

_log = structlog.get_logger(__name__)


class SlotNames:
    """For one slot, on the event loop. What it is handed belongs to it, also when it cannot be opened."""

    def __init__(self, gate: Gate, principal: Principal, name: str, handover: NamesHandover) -> None:
        """Raises SlotProtocolError for a network that cannot be one of tags."""
        try:
            self.tags: Final = NameTags(IPv4Network(handover.network))
        except ValueError as error:
            raise SlotProtocolError(f"no network for names: {error}") from error
        self._gate = gate
        self._principal = principal
        self._name = name
        self._steered = not handover.spares
        self._shared: frozenset[int] = frozenset()
        self._server: NameServer | None = None
        self._link = -1
        self._spare: list[socket.socket] = []
        self._listeners: dict[int, Listener] = {}
        """The listeners, by port; 0 stands for every port."""
        self._claimed: set[int] = set()
        """Ports that have a socket of the bag, or had one in vain: a tool may hold a port itself."""
        self._policy: Policy | None = None
        self._opening: set[asyncio.Task[None]] = set()
        self._closed = False

    async def open(self, descriptors: Sequence[int], shared: Iterable[int], policy: Policy | None) -> None:
        """Takes what `handover` says, in its order. `shared` are ports of the slot whose listeners know the tags.

        Raises SlotProtocolError and OSError, with everything closed.
        """
        left = list(descriptors)
        try:
            datagrams = _socket(left)
            self._spare.append(datagrams)  # owned by the server once that has both
            streams = _socket(left)
            self._spare.clear()
            self._server = NameServer(self.tags, datagrams, streams)
            check_name_server(datagrams, socket.SOCK_DGRAM)
            check_name_server(streams, socket.SOCK_STREAM)
            if self._steered:
                listening = _socket(left)
                self._listeners[0] = Listener(listening, self._principal, self._name, self.tags, only_names=True)
                check_steered(listening, self.tags.network)
                self._link = left.pop(0)
                os.set_inheritable(self._link, False)
                await self._gate.open(self._listeners[0])
            else:
                while left:
                    self._spare.append(_socket(left))
                    check_spare(self._spare[-1])
                self._shared = frozenset(shared)
                await self._open_ports(self._wanted(policy))
                self._policy = policy
            await self._server.start()
        except BaseException:
            for descriptor in left:
                os.close(descriptor)
            self.close()
            raise

    def follow(self, policy: Policy | None) -> None:
        """The policy may be another one now: a port that is new in it is opened."""
        if self._steered or policy is self._policy:
            return
        self._policy = policy
        if ports := self._wanted(policy) - self._claimed:
            task = asyncio.get_running_loop().create_task(self._open_ports(ports))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    def close(self) -> None:
        """Stops answering and cuts what is open."""
        self._closed = True  # a port that is just being opened is closed behind that, or nobody could say whose it is
        if self._server is not None:
            self._server.close()
        for listener in self._listeners.values():
            self._gate.close(listener)
            listener.socket.close()
        self._listeners.clear()
        for sock in self._spare:
            sock.close()
        self._spare.clear()
        if self._link >= 0:
            os.close(self._link)
            self._link = -1

    def _wanted(self, policy: Policy | None) -> set[int]:
        return {*DEFAULT_PORTS, *_ports_of(policy, self._principal.tool)} - self._shared

    async def _open_ports(self, ports: Iterable[int]) -> None:
        for port in sorted(ports, key=lambda port: (port not in DEFAULT_PORTS, port)):
            if not self._spare:
                _log.warning(
                    "a slot has no socket left for a port of its tool's rules: it is reached through the proxy only",
                    tool=self._principal.tool,
                    port=port,
                )
                return
            sock = self._spare.pop()
            self._claimed.add(port)
            try:
                # Connections of the run before may still be in TIME_WAIT.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                # The namespace has no interface but loopback, and `check_spare` has seen that it is not this host's.
                sock.bind(("0.0.0.0", port))  # noqa: S104
            except OSError as error:
                _log.warning(
                    "a port of a slot cannot be opened", port=port, tool=self._principal.tool, reason=str(error)
                )
                sock.close()
                continue
            listener = Listener(sock, self._principal, f"{self._name}:{port}", self.tags, only_names=True)
            await self._gate.open(listener)
            if self._closed:
                self._gate.close(listener)
                return
            self._listeners[port] = listener


def _socket(left: list[int]) -> socket.socket:
    """The first of the descriptors, which is not among those left then. Raises OSError."""
    sock = socket.socket(fileno=left[0])
    del left[0]
    sock.setblocking(False)
    sock.set_inheritable(False)
    return sock


def _ports_of(policy: Policy | None, tool: str | None) -> set[int]:
    if policy is None:
        return set()
    scope = policy.scope_of(tool)
    scopes = (scope, policy.global_scope) if scope.inherit_global else (scope,)
    return {port for each in scopes for rule in each.allowing for port in rule.ports}
