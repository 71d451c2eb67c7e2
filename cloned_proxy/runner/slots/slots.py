"""Sealed slots: network namespaces without a way out, ready before a tool needs one, and never two tools in one."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cloned_proxy.local.slot_protocol import Handover
from cloned_proxy.runner.docker.containers import holder_container
from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.docker.stream import StreamTimeoutError
from cloned_proxy.runner.namespaces.handing import HandingHolder
from cloned_proxy.runner.namespaces.names import NamePlan, plan_names
from cloned_proxy.runner.namespaces.netns import Namespace, may_enter
from cloned_proxy.runner.namespaces.slot_sockets import Descriptor, handed_over, made_inside
from cloned_proxy.runner.slots.lender import Lender
from cloned_proxy.runner.slots.networks import SEALED
from cloned_proxy.runner.values.errors import SandboxError, SlotError, ToolFailedError
from cloned_proxy.runner.values.spec import HolderSpec

_READY_SECONDS: Final = 10.0


def slot_name(slot_id: str, borrower: str = "") -> str:
    """The name of its holder; of one that is lent with the mark of the process that has it."""
    return f"cloned_slot_{slot_id}.{borrower}" if borrower else f"cloned_slot_{slot_id}"


@dataclass(slots=True, eq=False)
class Slot:
    """One holder and what it takes to listen inside its namespace."""

    id: str
    holder: str
    """Container id."""
    network: str
    handovers: tuple[Handover, ...]
    namespace: Namespace | None
    """None in the unprivileged variant: the holder makes the sockets and hands them over."""
    handing: HandingHolder | None
    directory: Path
    lent: bool = False
    """Whether the proxy keeps it, and takes it back (`slot_shelf`)."""
    runs: int = 0
    fresh: float = field(default_factory=time.monotonic)

    @property
    def variant(self) -> str:
        return "handing" if self.namespace is None else "namespace"

    def names(self, setting: str) -> NamePlan | None:
        """How names are answered in it, by the setting. Raises SandboxInputError."""
        # On a named network the engine answers for names, and an address of ours could hide one that is reached there.
        sealed = self.network == SEALED
        return plan_names(setting, enters=self.namespace is not None) if sealed else None

    def open_sockets(self, names: NamePlan | None = None) -> Sequence[Descriptor]:
        """The slot's listening sockets, one for each handover, and what its names take. Raises SlotError."""
        if self.namespace is not None:
            return made_inside(self.namespace, self.handovers, names)
        if self.handing is None:
            raise SlotError("a slot with neither a namespace nor a holder that hands over")
        return handed_over(self.handing, self.handovers, names)


class SlotPool:
    """The slots of one process. Thread-safe: each acquired slot belongs to one run until it is released."""

    def __init__(
        self,
        engine: Engine,
        *,
        run_directory: Path,
        owner: str,
        workspace_mark: str = "",
        image: str,
        seccomp: str,
        network: str = "none",
        handovers: tuple[Handover, ...],
        spare: int = 2,
        enter: bool | None = None,
        lender: Lender | None = None,
    ) -> None:
        self._engine = engine
        self._directory = run_directory / owner / "slots"
        self._owner = owner
        self._workspace_mark = workspace_mark
        self._image = image
        self._seccomp = seccomp
        self._network = network
        self._handovers = handovers
        self._spare = spare
        """Idle slots that are kept; more are removed when they come back."""
        self._enter = may_enter() if enter is None else enter
        self._may_change = enter is None
        """Whether the variant was our own choice, and may turn out to be wrong: a rootless engine, or one in a VM."""
        self._lender = lender
        self._lock = threading.Lock()
        self._idle: list[Slot] = []
        self._closed = False

    def warm_up(self, count: int = 1) -> None:
        """Makes slots ahead of need. Raises SandboxError."""
        for _ in range(count):
            self._put_back(self.make())

    @property
    def idle(self) -> int:
        with self._lock:
            return len(self._idle)

    @contextlib.contextmanager
    def acquire(self) -> Iterator[Slot]:
        """A slot for one run. It goes back into the pool only when the tool ended by itself, well or not."""
        slot = self._take() or self._borrow() or self.make()
        slot.runs += 1
        try:
            yield slot
        except ToolFailedError:
            self._put_back(slot)
            raise
        except BaseException:
            # Whatever went wrong, the slot may hold something of it: thrown away, not shared with the next tool.
            self.remove(slot)
            raise
        self._put_back(slot)

    def close(self) -> None:
        """Removes every idle slot; slots in use are removed when they come back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for slot in idle:
            self.remove(slot)
        # Only what is empty: another runner of this process may have slots beside ours.
        for directory in (self._directory, self._directory.parent / "scratch", self._directory.parent):
            with contextlib.suppress(OSError):
                directory.rmdir()

    def _take(self) -> Slot | None:
        while True:
            with self._lock:
                if not self._idle:
                    return None
                slot = self._idle.pop()
            if self.alive(slot):
                return slot
            self.remove(slot)

    def alive(self, slot: Slot) -> bool:
        """Whether the holder still runs. Asked again by the engine when a tool joins: this only saves a failed run."""
        if slot.namespace is not None:
            return slot.namespace.alive()
        try:
            return self._engine.state(slot.holder).running
        except SandboxError:
            return False

    def _borrow(self) -> Slot | None:
        """A slot that the proxy keeps ready; only one that is entered can be another process's."""
        found = self._lender.borrow() if self._lender is not None and self._enter else None
        if found is None:
            return None
        slot_id, holder, namespace = found
        directory = self._directory / slot_id
        return Slot(slot_id, holder, self._network, self._handovers, namespace, None, directory, lent=True)

    def _put_back(self, slot: Slot) -> None:
        if slot.lent:
            if self._lender is None or not self._lender.give_back(slot.id):
                self.remove(slot)
            elif slot.namespace is not None:
                slot.namespace.close()
            return
        with self._lock:
            if not self._closed and len(self._idle) < self._spare:
                self._idle.append(slot)
                return
        self.remove(slot)

    def remove(self, slot: Slot) -> None:
        if slot.namespace is not None:
            slot.namespace.close()
        if slot.handing is not None:
            slot.handing.close()
        self._engine.discard(slot.holder)
        shutil.rmtree(slot.directory, ignore_errors=True)

    def make(self) -> Slot:
        try:
            return self._make_one()
        except SlotError:
            if not (self._enter and self._may_change):
                raise
            self._enter = False
            return self._make_one()

    def _make_one(self) -> Slot:
        slot_id = secrets.token_hex(4)
        directory = self._directory / slot_id
        directory.mkdir(mode=0o700, parents=True)
        handing: HandingHolder | None = None
        if not self._enter:
            directory.chmod(0o711)  # the holder's user passes through; the parents are 0700
            handing = HandingHolder(directory)
        spec = HolderSpec(
            name=slot_name(slot_id),
            image=self._image,
            seccomp=self._seccomp,
            owner=self._owner,
            workspace_mark=self._workspace_mark,
            network=self._network,
            socket_dir="" if handing is None else str(directory),
        )
        try:
            holder = self._engine.create(spec.name, holder_container(spec))
            namespace = self._start(holder, handing)
        except BaseException:
            # By its name: an interruption during the create request leaves no id, and may leave a container.
            self._engine.discard(spec.name)
            if handing is not None:
                handing.close()
            shutil.rmtree(directory, ignore_errors=True)
            raise
        return Slot(slot_id, holder, self._network, self._handovers, namespace, handing, directory)

    def _start(self, holder: str, handing: HandingHolder | None) -> Namespace | None:
        if handing is None:
            self._engine.start(holder)
            state = self._engine.state(holder)
            if not state.running:
                raise SlotError(
                    f"the holder ended at once with {state.exit_code}; rebuild it: `cloned-proxy image build`"
                )
            return Namespace.of(state.id, state.pid)
        stream = self._engine.attach(holder)
        try:
            self._engine.start(holder)
            said = b""
            for _, piece in stream.frames(time.monotonic() + _READY_SECONDS):
                said += piece
                if said.startswith(b"ready\n"):
                    handing.accept()
                    return None
        except StreamTimeoutError as error:
            raise SlotError(
                f"the holder was not ready within {_READY_SECONDS:.0f} s; is the engine overloaded?"
            ) from error
        finally:
            stream.close()
        raise SlotError(f"the holder could not hand its sockets over: {said.decode(errors='replace').strip()}")
