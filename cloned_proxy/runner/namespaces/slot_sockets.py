"""The sockets of a slot, whichever way they are made inside its namespace."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final, Protocol

from cloned_proxy.local.slot_protocol import Handover
from cloned_proxy.runner.namespaces.handing import HandingHolder, datagrams, listening, spare
from cloned_proxy.runner.namespaces.loopback import add_address
from cloned_proxy.runner.namespaces.names import NamePlan
from cloned_proxy.runner.namespaces.netns import Namespace, listening_socket
from cloned_proxy.runner.namespaces.steering import steer
from cloned_proxy.runner.values.errors import SlotError

_BACKLOG: Final = 128
_DNS_PORT: Final = 53
_LOOPBACK: Final = "127.0.0.1"


class Descriptor(Protocol):
    """A socket, or what else has a descriptor."""

    def fileno(self) -> int: ...

    def close(self) -> None: ...


class _Plain:
    """A descriptor that is no socket."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor

    def close(self) -> None:
        os.close(self._descriptor)


def handed_over(holder: HandingHolder, handovers: Sequence[Handover], names: NamePlan | None) -> list[Descriptor]:
    """What the holder makes: a listener for each handover, then what `NamesHandover` says. Raises SlotError."""
    host = _LOOPBACK if names is None else names.listen_on
    orders = [listening(handover.port, host) for handover in handovers]
    if names is not None:
        orders += [datagrams(_DNS_PORT), listening(_DNS_PORT, _LOOPBACK), *(spare() for _ in range(names.spares))]
    return list(holder.get(orders))


def made_inside(namespace: Namespace, handovers: Sequence[Handover], names: NamePlan | None) -> list[Descriptor]:
    """The same, made by a thread that enters the namespace. Raises SlotError."""
    host = _LOOPBACK if names is None else names.listen_on
    with ExitStack() as undo:
        made: list[Descriptor] = []
        for handover in handovers:
            made.append(namespace.listen(handover.port, _BACKLOG, host=host))
            undo.callback(made[-1].close)
        if names is not None:
            try:
                made += namespace.inside(lambda: _for_names(namespace.descriptor, names))
            except OSError as error:
                raise SlotError(f"names cannot be answered inside the slot: {error.strerror or error}") from error
        undo.pop_all()
    return made


def _for_names(namespace: int, names: NamePlan) -> list[Descriptor]:
    """Runs in the namespace. Raises OSError."""
    for address in names.addresses:
        add_address(address)
    with ExitStack() as undo:
        made: list[Descriptor] = []

        def keep[T: Descriptor](descriptor: T) -> T:
            made.append(descriptor)
            undo.callback(descriptor.close)
            return descriptor

        keep(socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)).bind((_LOOPBACK, _DNS_PORT))
        keep(listening_socket(_LOOPBACK, _DNS_PORT, _BACKLOG))
        if names.steered:
            steered = keep(listening_socket(str(names.network[1]), 0, _BACKLOG))
            keep(_Plain(steer(namespace, steered, names.network)))
        for _ in range(names.spares):
            keep(socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC))
        undo.pop_all()
    return made
