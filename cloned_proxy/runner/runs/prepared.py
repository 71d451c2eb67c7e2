"""A sandbox that is made before its command is known, for one run, in the process that will run it.

It has a slot of its own, in which nobody listens yet, and a container in which a shell waits for the command (`gate`).
Before it is used everything is worked out anew, as if there were none: the policy, the settings, what of this machine
is shown and what is masked. Only when the engine would be asked for exactly this container now, and every path leads
to what is mounted in it, does the command run there. Otherwise it is thrown away, and another one is made.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cloned_proxy.runner.docker.containers import tool_container
from cloned_proxy.runner.docker.engine_address import engine_host
from cloned_proxy.runner.docker.gate import GATE, opening
from cloned_proxy.runner.docker.stream import Attached
from cloned_proxy.runner.project.neighbours import check_neighbours
from cloned_proxy.runner.project.view import View
from cloned_proxy.runner.runs.job import Job
from cloned_proxy.runner.runs.slot_run import Site, SlotRun, new_run
from cloned_proxy.runner.slots.link import proxy_status
from cloned_proxy.runner.slots.networks import SEALED
from cloned_proxy.runner.slots.slots import Slot, SlotPool
from cloned_proxy.runner.values.errors import GoneError, SandboxError
from cloned_proxy.runner.values.spec import SandboxSpec

if TYPE_CHECKING:
    from cloned_proxy.runner.runs.execution import Ready

_MOST_PATHS: Final = 64
"""How many paths are held, each by an open descriptor, which keeps its identity."""
_MOUNTS: Final = Path("/proc/self/mountinfo")


def can_wait(job: Job, view: View) -> bool:
    """Whether a container for it may wait.

    Not one that can write to more than its own directory: as long as it is there, no other tool is shown those files
    (`neighbours`). A kept home is locked for the time of a run, and a terminal has the size of the caller's.
    """
    writes = any(not mount.read_only for mount in (*view.binds, *view.mounts))
    odd = "PATH" in job.env  # the shell that waits might not be found by it
    special = odd or job.home or job.dry_run or job.every_change or job.project.as_caller or job.terminal is not None
    return not writes and not special and len(_paths(view)) <= _MOST_PATHS


def prepare(site: Site, pool: SlotPool, job: Job, view: View, user: str) -> Prepared | None:
    """Makes it. None where the image has no shell to wait in. Raises SandboxError; nothing is left then."""
    with contextlib.ExitStack() as undo:
        slot = undo.enter_context(pool.acquire())
        run = new_run()
        scratch = site.new_scratch(run)
        planned = SlotRun(site=site, job=job, slot=slot, view=view, user=user, home="", run=run, scratch=scratch)
        undo.callback(planned.remove_scratch, None)
        ca = proxy_status(site.workspace, job.tool).ca
        spec = planned.trusting(planned.spec(), ca)
        pins = undo.enter_context(contextlib.closing(_Pins(view)))
        image = str(site.engine.image(spec.image)["Id"])
        body = tool_container(replace(spec, command=GATE))
        container = undo.enter_context(site.engine.container(_waiting_name(run), body))
        undo.callback(site.engine.discard, container)  # by its id: the name changes when it is used
        stream = undo.enter_context(contextlib.closing(site.engine.attach(container)))
        check_neighbours(site.engine, spec, container)
        site.engine.start(container)
        # Pinned before the mounts were made and compared behind that: what is held is what is mounted.
        if not site.engine.state(container).running or not pins.hold(view):
            return None
        keep = undo.pop_all()
    return Prepared(
        site=site, pool=pool, slot=slot, run=run, scratch=scratch, container=container, stream=stream, body=body,
        image=image, place=engine_host(), trust=(site.private_cas, ca), pins=pins, everything=keep,
    )  # fmt: skip


def _waiting_name(run: str) -> str:
    """The container's name until it has a command: it is no tool that runs, and is not called one."""
    return f"cloned_ready_{run}"


@dataclass(kw_only=True, eq=False)
class Prepared:
    """For one thread. `close` it if it is not used."""

    site: Site
    pool: SlotPool
    slot: Slot
    run: str
    scratch: Path
    container: str
    stream: Attached
    body: dict[str, Any]
    image: str
    """Id."""
    place: str
    """The address of the engine."""
    trust: tuple[str, str | None]
    pins: _Pins
    everything: contextlib.ExitStack
    """Ends it in the right order: container, directory, slot."""
    used: bool = field(default=False)

    def alive(self) -> bool:
        """Whether the slot is still held."""
        return self.pool.alive(self.slot)

    @contextlib.contextmanager
    def lent(self, network: str) -> Iterator[bool]:
        """For one run; whether it may be that one's at all.

        Behind a run that ended by itself, whoever prepared it closes it: its container has ended, and the one who typed
        the command need not wait for its removal. After anything else it is gone at once.
        """
        fit = network == SEALED and engine_host() == self.place and not self.used and self.alive()
        self.used = True
        with contextlib.ExitStack() as stack:
            stack.push(self.everything.pop_all())
            if not fit:
                stack.close()
            yield fit
            self.everything = stack.pop_all()

    def for_run(self, planned: SlotRun, spec: SandboxSpec, ca: str | None) -> Ready | None:
        """What the run needs to go on in this container. None if another is needed: this one is gone then."""
        from cloned_proxy.runner.runs.execution import Ready  # noqa: PLC0415  it knows of us, too

        engine, now = planned.site.engine, planned.trusting(spec, ca, write=False)
        line = opening(spec.command)
        with contextlib.suppress(SandboxError):
            if (
                line is not None
                and self.trust == (planned.site.private_cas, ca)
                and self.body == tool_container(replace(now, command=GATE))
                and self.pins.hold(planned.view)
                and self.image == engine.image(now.image)["Id"]
                and engine.state(self.container).running
            ):
                engine.rename(self.container, now.name)
                return Ready(self.container, self.stream, line)
        self._throw_away(planned)
        return None

    def _throw_away(self, planned: SlotRun) -> None:
        """The container and what was written for it; the slot has not been used."""
        self.stream.close()
        planned.site.engine.discard(self.container)
        planned.remove_scratch(None)
        self.site.new_scratch(self.run)

    def close(self) -> None:
        """Removes all of it."""
        self.everything.close()


class _Pins:
    """What is mounted and what is masked, by open descriptors: as long as they are open no inode is used again."""

    def __init__(self, view: View) -> None:
        self._held: dict[str, int] = {}
        self._mounts = _mounts_below(view)
        try:
            for path in _paths(view):
                self._held[path] = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError as error:
            self.close()
            raise GoneError(f"{error.filename} is gone") from error

    def hold(self, view: View) -> bool:
        """Whether each path still leads where it did, and nothing was mounted below since."""
        if set(_paths(view)) != set(self._held) or _mounts_below(view) != self._mounts:
            return False
        try:
            return all(_identity(os.fstat(held)) == _identity(os.stat(path)) for path, held in self._held.items())  # noqa: PTH116
        except OSError:
            return False

    def close(self) -> None:
        for held in self._held.values():
            os.close(held)
        self._held.clear()


def _identity(info: os.stat_result) -> tuple[int, int]:
    return info.st_dev, info.st_ino


def _paths(view: View) -> list[str]:
    """Paths of this machine: all that is shown, and in it all that is masked."""
    shown = {mount.source for mount in (*view.binds, *view.mounts)}
    hidden = {str(tree.source / path) for tree in view.trees for path in tree.hidden}
    return sorted(shown | hidden)


def _mounts_below(view: View) -> list[str]:
    """The lines of proc_pid_mountinfo(5) for mounts in what is shown."""
    roots = tuple(
        f"{source.rstrip('/')}/" for source in sorted({mount.source for mount in (*view.binds, *view.mounts)})
    )
    lines = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    return [line for line in lines if f"{line.split(' ')[4]}/".startswith(roots)]
