"""The serving side of sandbox slots: takes listening sockets from runners of the same user and opens them on the gate.

A descriptor is accepted only if it is a listening stream socket on loopback or a unix socket: whoever may speak here
may already do everything this user may, but a mistake must not turn into an open port.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from cloned_proxy.local.slot_protocol import (
    DRY_RUN_MARK,
    MAX_MESSAGE,
    NamesHandover,
    RunEnd,
    SlotProtocolError,
    decode,
    encode,
)
from cloned_proxy.local.unix_sockets import new_socket, short_path
from cloned_proxy.policy.callers.caller import Principal
from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.secrets.redact import redact
from cloned_proxy.proxy.gate.gate import Gate
from cloned_proxy.proxy.slots.holders import Holders
from cloned_proxy.proxy.slots.service_relay import ServiceRelay
from cloned_proxy.proxy.slots.slot_names import SlotNames
from cloned_proxy.proxy.slots.slot_runner import SlotRunner
from cloned_proxy.proxy.transport.listener import BindError, Listener
from cloned_proxy.proxy.transport.name_tags import NameTags
from cloned_proxy.proxy.transport.private_socket import accept_own_user, listen_privately
from cloned_proxy.telemetry.events import RunEvent
from cloned_proxy.telemetry.sandbox_metrics import RUN_RESULTS

_MAX_RUNNERS: Final = 512
_BACKLOG: Final = 64
_GIVE_UP_SECONDS: Final = 2.0


class AnotherServesError(BindError):
    """A running `serve` of this workspace takes its sandboxes already."""


class SlotApi:
    """One for each serving process, on its event loop."""

    def __init__(
        self,
        *,
        gate: Gate,
        path: Path,
        on_run: Callable[[RunEvent], None],
        on_slots: Callable[[int], None] = lambda _open: None,
        clock: Callable[[], float] = time.time,
        ca_for: Callable[[str], str | None] = lambda _tool: None,
        address: Callable[[], str] = lambda: "",
        policy: Callable[[], Policy | None] = lambda: None,
        holders: Holders | None = None,
    ) -> None:
        self._gate = gate
        self._path = path
        self._on_run = on_run
        """Puts the end of a run on record."""
        self._on_slots = on_slots
        """Is called with the number of open slots whenever that changes."""
        self._clock = clock
        self._ca_for = ca_for
        """The workspace CA in PEM form, if a rule of the tool opens TLS."""
        self._address = address
        """`host:port` of the listener for callers with a credential."""
        self._policy = policy
        """The one in force: what ports a tool's rules have."""
        self.holders = holders if holders is not None else Holders()
        self._sock: socket.socket | None = None
        self._runners: set[SlotRunner] = set()
        self._names: set[SlotNames] = set()

    def start(self) -> None:
        """Listens. Raises BindError, AnotherServesError when another process of this workspace does already."""
        loop = asyncio.get_running_loop()
        sock = new_socket()
        listen_privately(sock, self._path, backlog=_BACKLOG, clear=self._clear_stale)
        self._sock = sock
        loop.add_reader(sock.fileno(), self._accept)

    def give_up(self) -> bool:
        """Takes no more runners, if this is a borrowed proxy: it ends, or a lasting `serve` takes its place.

        Whoever is connected here keeps what is open, until the last one has ended.
        """
        if self.holders.standby:
            self._stop_listening()
        return self.holders.standby

    def _stop_listening(self) -> None:
        if self._sock is not None:
            asyncio.get_running_loop().remove_reader(self._sock.fileno())
            self._path.unlink(missing_ok=True)
            self._sock.close()
            self._sock = None

    def _clear_stale(self) -> None:
        """Raises AnotherServesError unless nobody listens there any more, or a borrowed proxy makes room."""
        if not self._path.is_socket():
            return
        with new_socket() as other, short_path(self._path) as name:
            try:
                other.settimeout(_GIVE_UP_SECONDS)
                other.connect(name)
                if not self.holders.standby and _gives_up(other):
                    return
            except ConnectionRefusedError:
                self._path.unlink()
                return
            except (OSError, SlotProtocolError):  # of another version, or too busy to answer: it runs
                pass
        raise AnotherServesError(f"{self._path} is in use: another `cloned-proxy serve` runs in this workspace")

    async def close(self) -> None:
        """Closes every slot; the tools in them see refused connections from now on."""
        self._stop_listening()
        for runner in tuple(self._runners):
            runner.outlives_us()
            await runner.close()

    @property
    def open_slots(self) -> int:
        return sum(runner.open for runner in self._runners)

    def _accept(self) -> None:
        if self._sock is None:
            return
        sock = accept_own_user(self._sock, connected=len(self._runners), most=_MAX_RUNNERS)
        if sock is None:
            return
        runner = SlotRunner(sock, self)
        self._runners.add(runner)
        runner.start()

    def changed(self) -> None:
        """A slot was opened or closed."""
        self._on_slots(self.open_slots)

    def forget(self, runner: SlotRunner) -> None:
        self._runners.discard(runner)
        self.changed()

    async def open_listener(self, listener: Listener) -> Callable[[], None]:
        """Opens the proxy's own port of a slot; returns what closes it."""
        await self._gate.open(listener)
        return lambda: self._gate.close(listener)

    async def open_service(self, listener: Listener, target: tuple[str, int]) -> Callable[[], None]:
        relay = ServiceRelay(self._gate, listener, target)
        await relay.start()
        return relay.close

    async def open_names(
        self, principal: Principal, name: str, names: NamesHandover, descriptors: Sequence[int], shared: Iterable[int]
    ) -> tuple[NameTags, Callable[[], None]]:
        """Answers for names in a slot; returns their tags and what ends it. The descriptors are taken in any case."""
        try:
            slot = SlotNames(self._gate, principal, name, names)
        except SlotProtocolError:
            for descriptor in descriptors:
                os.close(descriptor)
            raise
        await slot.open(descriptors, shared, self._policy())
        self._names.add(slot)

        def close() -> None:
            self._names.discard(slot)
            slot.close()

        return slot.tags, close

    def policy_changed(self) -> None:
        """Ports of new rules are opened in the slots that run."""
        for slot in self._names:
            slot.follow(self._policy())

    def ca_for(self, tool: str) -> str | None:
        return self._ca_for(tool)

    def status(self, tool: str) -> bytes:
        ca = self._ca_for(tool) if tool else None
        return encode(ok=True, pid=os.getpid(), slots=self.open_slots, address=self._address(), ca=ca)

    def ended(self, tool: str, run: str, end: RunEnd, command: str = "") -> None:
        """Puts the end of a run on record; one with an unknown result counts as `error`."""
        self._on_run(
            RunEvent(
                at=self._clock(),
                tool=tool,
                run=run,
                result=end.result if end.result in RUN_RESULTS else "error",
                seconds=round(end.seconds, 3),
                start_seconds=None if end.start_seconds is None else round(end.start_seconds, 3),
                dry_run=run.startswith(DRY_RUN_MARK),
                reason=end.reason,
                command=redact(command),
            )
        )


def _gives_up(other: socket.socket) -> bool:
    other.send(encode(op="give up"))
    answer = other.recv(MAX_MESSAGE)
    return bool(answer) and bool(decode(answer).get("ok"))
