"""The running plane beside a gate: its listeners, what it hands over, what it may grant, and what it has counted."""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from cloned_proxy.proxy.enforce.known_refusals import KnownRefusal
from cloned_proxy.proxy.enforce.tunnels import Tunnel
from cloned_proxy.proxy.grants.grant import Grant
from cloned_proxy.proxy.plane import library
from cloned_proxy.proxy.plane.arrivals import Arrivals
from cloned_proxy.proxy.plane.cells import PlaneCells
from cloned_proxy.proxy.plane.configuration import config_of
from cloned_proxy.proxy.plane.entries import PlaneEntries
from cloned_proxy.proxy.plane.figures import Figures
from cloned_proxy.proxy.plane.parties import PARTIES, Parties
from cloned_proxy.proxy.plane.questions import Questions
from cloned_proxy.proxy.plane.refusals import PlaneRefusals
from cloned_proxy.proxy.plane.seen import PlaneTunnel, Review, open_flows
from cloned_proxy.proxy.plane.verdicts import Verdicts
from cloned_proxy.proxy.transport.listener import Listener
from cloned_proxy.proxy.tunnel.client import Client
from cloned_proxy.proxy.tunnel.gate_services import GateServices
from cloned_proxy.proxy.wire.head import Head
from cloned_proxy.store.settings.config import ProxySettings

_log = structlog.get_logger(__name__)

_SHOWN: Final = 10_000
_TURNS: Final = 64
"""Connections that are taken over in one turn of the loop."""


class PlaneError(Exception):
    """The plane cannot be loaded or started; the message says why."""


class Plane:
    """One for each gate, on its event loop, from `start` to `close`."""

    def __init__(self, path: Path, settings: ProxySettings, *, threads: int = 1, queue: int = 10_000) -> None:
        """`queue` is how many entries may wait for the log before heads wait in their sockets.

        Loads the library and starts its threads, which have nothing to do yet. Raises PlaneError.
        """
        self.cells: Final = PlaneCells()
        """For `Budgets` and the gate, which count beside the plane."""
        self.threads: Final = threads
        self.failed = False
        """A thread has died: the gate accepts by itself again."""
        self.held_up: Callable[[], None] = lambda: None
        """Called when clients of a native listener wait for a place."""
        self.parties: Final = Parties(self.cells)
        try:
            self._library = library.load(path)
        except library.LibraryError as error:
            raise PlaneError(str(error)) from error
        handle = self._library.plane_start(ctypes.byref(config_of(settings, self.cells, threads=threads, queue=queue)))
        if handle is None:
            raise PlaneError(f"{path}: its threads cannot be started")
        self._handle: Final[int] = handle
        self.cells.turn.take = partial(self._library.plane_take_turn, handle)
        self.cells.turn.give = partial(self._library.plane_give_turn, handle)
        self.entries: Final = PlaneEntries(self._library, handle)
        """For the audit log."""
        self._numbers: Final = itertools.count(1)
        self._listeners: dict[Listener, tuple[int, int]] = {}
        """Number and column of the party."""
        self._by_number: dict[int, tuple[Listener, int]] = {}
        """Listeners with the columns of their parties: also closing ones, for what is handed over meanwhile."""
        self._running = True
        self._freed = False
        self._services: GateServices
        self._verdict_numbers: Final = itertools.count(1)
        self._verdicts: Verdicts
        self._refusals: PlaneRefusals
        self._loop: asyncio.AbstractEventLoop
        self._arrivals: Arrivals
        self._figures: Figures

    def start(self, services: GateServices) -> None:
        """Joins it to the gate whose services these are."""
        self._services = services
        self._loop = asyncio.get_running_loop()
        self._verdicts = Verdicts(
            self._library,
            self._handle,
            basis=services.enforcer.basis,
            cells=self.cells,
            tokens=services.tokens,
            clock=services.clock,
            entries=self.entries,
            numbers=self._verdict_numbers,
            leaks=services.leaks,
            response_timeout=services.settings.response_timeout,
            ways=services.ways,
        )
        self._refusals = PlaneRefusals(
            self._library,
            self._handle,
            enforcer=services.enforcer,
            cells=self.cells,
            entries=self.entries,
            numbers=self._verdict_numbers,
        )
        questions = Questions(services, self._verdicts, self._number_of)
        self._arrivals = Arrivals(
            self._library, self._handle, services, questions=questions, listener_of=self._listener_of
        )
        self._figures = Figures(
            self._library,
            self._handle,
            services.metrics,
            verdicts=lambda: (*self._verdicts.known.values(), *self._refusals.known.values()),
            clock=services.clock,
        )
        self._loop.add_reader(self._library.plane_bell(self._handle), self._rung)
        services.tunnels.elsewhere = self.tunnels
        services.metrics.refreshed_by(self._figures.refresh)

    # Listeners.

    def takes(self, listener: Listener) -> bool:
        """Whether it can accept there: where every caller asks a proxy."""
        return self._running and not self.failed and _is_common(listener) and not self.parties.full

    def open(self, listener: Listener) -> None:
        number, party = next(self._numbers), self.parties.opened(listener.party)
        self._listeners[listener] = number, party
        self._by_number[number] = listener, party
        self._library.plane_listen(self._handle, listener.socket.fileno(), number, party)

    def close_listener(self, listener: Listener) -> bool:
        """Stops accepting there, and cuts what came that way. False when it is none of its own."""
        if listener not in self._listeners:
            return False
        number, _ = self._listeners.pop(listener)
        if self._running:
            self._library.plane_unlisten(self._handle, number, *_cause("listener_closed"))
            self._arrivals.take(self._told()[_CONNECTIONS])  # its own are among them; what comes meanwhile is not
        del self._by_number[number]
        self.parties.closed(listener.party)
        return True

    @property
    def listeners(self) -> Sequence[Listener]:
        return tuple(self._listeners)

    def _number_of(self, listener: Listener) -> int | None:
        """None where the plane grants nothing any more."""
        return self._listeners.get(listener, (None, 0))[0] if self._running and not self.failed else None

    def _listener_of(self, number: int) -> tuple[Listener | None, int]:
        return self._by_number.get(number, (None, 0))

    def contend(self, *, contended: bool) -> None:
        """Tells it whether others accept, too: the gate counts the listeners of both."""
        if self._running:
            self._library.plane_set_contended(self._handle, contended)

    def make_room(self, party: object | None, *, first: float, further: float, most: int) -> None:
        """Ends up to so many connections, of this party or of all, that ask for nothing.

        Those go that have not begun to ask for the `first` time, or to ask for more, for so many seconds.
        """
        column = PARTIES if party is None else self.parties.column(party)
        if self._running and column is not None:
            self._library.plane_make_room(self._handle, column, int(first * 1e6), int(further * 1e6), most)

    # Verdicts.

    def publish(self, listener: Listener, head: Head, grant: Grant) -> bool:
        """Lets the plane grant the same again, if that may be; whether it will."""
        number = self._number_of(listener)
        return number is not None and self._verdicts.publish(number, head, grant)

    def publish_refusal(self, listener: Listener, head: bytes, known: KnownRefusal, until: float) -> None:
        """Lets the plane tell who sends this head there what we tell, until then (monotonic seconds)."""
        if (number := self._number_of(listener)) is not None:
            self._refusals.publish(number, head, known, until)

    def take_back(self, connection: Client) -> bool:
        """Takes a connection from the loop, between two plain requests; False leaves it there.

        The plane gets a descriptor of its own: closing that of the loop says nothing to the client.
        """
        if (number := self._number_of(connection.listener)) is None:
            return False
        transport = connection.transport
        try:
            fd = os.dup(transport.get_extra_info("socket").fileno())
        except OSError:
            return False
        transport.set_protocol(asyncio.Protocol())
        transport.abort()
        self._library.plane_take_back(self._handle, fd, number, self._listeners[connection.listener][1])
        return True

    def look(self) -> None:
        """Takes everything back if anything has changed that a decision looks at."""
        if self._running:
            self._verdicts.look()

    def sweep(self) -> None:
        """Takes back what is not to be granted any more, and cuts what no longer passes. `Tunnels.sweep` says when."""
        if not self._running:
            return
        self._verdicts.look()
        self._figures.carry()  # first: by it is known which verdicts anything is open by
        review = Review(self._services, (each for each in self._verdicts.known.values() if each.counted[_OPEN]))
        flows = open_flows(self._library, self._handle) if review.by_request else ()
        if lines := "".join(review.lines(flows)).encode("ascii"):
            self._library.plane_review(self._handle, lines, len(lines))
        self.entries.forget([*self._verdicts.retire(), *self._refusals.retire()])

    # The end.

    @property
    def connections(self) -> int:
        """How many connections the plane has, or has handed over and nobody has taken yet."""
        return self._told()[_CONNECTIONS] + len(self._arrivals)

    def stop_accepting(self) -> None:
        """What is connected goes on; who asks for nothing is let go of, and nothing new is granted."""
        if not self._running:
            return
        self._verdicts.forget()
        self._library.plane_drain(self._handle)
        self._arrivals.take()

    def cut(self, cause: str) -> None:
        if self._running:
            self._library.plane_cut_all(self._handle, *_cause(cause))

    def stop(self) -> None:
        """Ends the threads. What they have put on record can still be taken, until `free`."""
        if not self._running:
            return
        self._running = False
        self._library.plane_stop(self._handle)
        self._loop.remove_reader(self._library.plane_bell(self._handle))
        self._arrivals.take()
        self._figures.carry()
        self._services.metrics.refreshed_by(None)
        self._services.tunnels.elsewhere = lambda: ()

    def free(self) -> None:
        """Behind `stop`, and behind everybody who takes entries."""
        if self._freed:
            return
        if self._running:  # a start that failed half-way
            self._running = False
            self._library.plane_stop(self._handle)
        self._freed = True
        self.cells.turn.take = self.cells.turn.give = lambda: None
        if self.entries.close():  # else a writer that hangs on its disk has it still, and it ends with the process
            self._library.plane_free(self._handle)

    def panic(self) -> None:
        """For the test of what becomes of a plane that has a fault."""
        self._library.plane_panic(self._handle)

    # What is handed over.

    def _rung(self) -> None:
        if not self._arrivals.take(_TURNS):
            self._loop.call_soon(self._rung)
        told = self._told()
        if told[_HELD_UP]:
            self.held_up()
        if told[_DEAD] and not self.failed:
            self.failed = True
            _log.error("the native plane has failed: its connections are closed, and Python serves from now on")
            self._services.metrics.plane_failed()
            self._services.plane_failed()
        self._services.plane_idle()

    # What is shown.

    def tunnels(self) -> list[Tunnel]:
        """The open ones, as they are now."""
        known = self._verdicts.known
        flows = open_flows(self._library, self._handle)[:_SHOWN]
        budgets = self._services.enforcer.basis.budgets
        return [
            PlaneTunnel(known[each.verdict], each, budgets, self._cut_flow) for each in flows if each.verdict in known
        ]

    def _cut_flow(self, identifier: str, cause: str) -> None:
        if self._running:
            self._library.plane_cut_flow(self._handle, bytes.fromhex(identifier), *_cause(cause))

    def _told(self) -> list[int]:
        numbers = (ctypes.c_int64 * library.NUMBERS)()
        if not self._freed:
            self._library.plane_numbers(self._handle, ctypes.byref(numbers))
        return list(numbers)


def _is_common(listener: Listener) -> bool:
    """Whether its callers ask a proxy, from the first byte on."""
    return listener.names is None and not listener.header_from


_CONNECTIONS, _OPEN, _DEAD, _HELD_UP = 0, 1, 5, 6


def _cause(cause: str) -> tuple[bytes, int]:
    encoded = json.dumps(cause).encode("ascii")
    return encoded, len(encoded)
