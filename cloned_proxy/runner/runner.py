"""`DockerContainerRunner`: any Cloned tool, or any command, in a container whose only way out is the proxy."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

from cloned_proxy.policy.redact import redact_command
from cloned_proxy.proxy.slot_protocol import DRY_RUN_MARK, OpenSlot, RunEnd
from cloned_proxy.runner.calls import Calls
from cloned_proxy.runner.cancellation import Cancellation
from cloned_proxy.runner.containers import tool_environment
from cloned_proxy.runner.crew import Crew
from cloned_proxy.runner.engine import Engine
from cloned_proxy.runner.engine_address import engine_host
from cloned_proxy.runner.errors import SandboxError, ToolLimitError
from cloned_proxy.runner.execution import MAX_STDOUT, Collected, Feed, Outcome, Output, execute
from cloned_proxy.runner.files import new_scratch, read_scratch, remove_scratch
from cloned_proxy.runner.holder_watch import while_held
from cloned_proxy.runner.homes import Homes
from cloned_proxy.runner.image_check import check_current
from cloned_proxy.runner.job import Job, ToolResult, Watch, watched
from cloned_proxy.runner.lender import Lender
from cloned_proxy.runner.limits import limits_from, names_for
from cloned_proxy.runner.link import ProxyLink
from cloned_proxy.runner.networks import SEALED
from cloned_proxy.runner.owner import owner_id, remove_leftovers
from cloned_proxy.runner.pools import Pools
from cloned_proxy.runner.project.account import git_environment, write_account
from cloned_proxy.runner.project.place import user_of_caller
from cloned_proxy.runner.project.view import View, view_of
from cloned_proxy.runner.slots import Slot
from cloned_proxy.runner.spec import (
    SandboxSpec,
    check_tool_id,
    workspace_mark,
)
from cloned_proxy.runner.sweeping import sweep
from cloned_proxy.runner.worker import WorkerKind, choose_worker, read_answer, request_line, user_of
from cloned_proxy.share import share_path
from cloned_proxy.store.workspace import Workspace
from cloned_proxy.telemetry.later import LaterLogger

_log = LaterLogger(__name__)

NETWORK_VARIABLE: Final = "CLONED_SANDBOX_NETWORK"
_SWEEP_SECONDS: Final = 30.0


class DockerContainerRunner(Calls):
    """Runs tools in sealed slots. Thread-safe; a context manager, or call `close`.

    A proxy must be serving the workspace (`cloned-proxy serve`; `standby.proxy_for` starts one).
    """

    def __init__(
        self,
        *,
        workspace: Path | str | None = None,
        network: str | None = None,
        image: str | None = None,
        cpus: float | None = None,
        memory: int | str | None = None,
        worker: WorkerKind | None = None,
        timeout: float | None = None,
        spare_slots: int = 2,
        engine: Engine | None = None,
        enter_namespaces: bool | None = None,
    ) -> None:
        """What is None is taken from config.yaml. `memory` is bytes, or a size such as `512m`.

        `enter_namespaces` None: if this process may.

        Raises EngineError without an engine, StoreError for a config.yaml that is not accepted.
        """
        place = Workspace.find(Path(workspace) if workspace is not None else None)
        settings = place.sandbox_settings()
        self.workspace = place.root
        self.project = self.workspace.parent
        self._network = network or os.environ.get(NETWORK_VARIABLE) or settings.network or SEALED
        self._image = image
        self._settings = settings
        self._private_cas = _private_cas(settings.ca_files, self.workspace)
        self._limits = limits_from(settings, cpus=cpus, memory=memory)
        self._worker = worker or WorkerKind(settings.worker)
        self._timeout = timeout or settings.timeout
        self._engine = engine or Engine.connect()
        self._own_engine = engine is None
        self._owner = owner_id()
        self._runs = self.workspace / "run"
        self._seccomp = share_path("sandbox", "seccomp.json").read_text(encoding="utf-8")
        self._users: dict[str, str] = {}
        self._pools = Pools(
            self._engine,
            workspace=self.workspace,
            owner=self._owner,
            seccomp=self._seccomp,
            spare=spare_slots,
            enter=enter_namespaces,
            lender=Lender(self.workspace, self._owner),
        )
        # At the latest when the interpreter ends: a run that nobody waits for any more is no reason to stay.
        self._crew = Crew()
        self._at_exit = weakref.finalize(self, self._crew.end_all)
        remove_leftovers(self._engine, self._runs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends what `exec_async`, `run_tool_async` and `session` have running; removes idle slots and networks."""
        self._at_exit()
        self._pools.close()
        if self._own_engine:
            self._engine.close()

    def warm_up(self, count: int = 1) -> None:
        """Makes sealed slots ahead of need. Raises SandboxError."""
        self._pools.of(SEALED).warm_up(count)

    def run_tool(
        self,
        tool_id: str,
        input: Any,  # noqa: A002  the word of contract section 8
        ctx: Any = None,
        *,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        files: tuple[str, ...] = (),
        dry_run: bool = False,
        watch: Watch | None = None,
        cancellation: Cancellation | None = None,
    ) -> ToolResult:
        """Runs one tool with the worker of its image and returns its output. Raises SandboxError.

        `files` names what to bring back from /sandbox; `watch` sees what the tool prints while it runs; `cancellation`
        is for another thread that wants to end the run (RunCancelledError).
        """
        began = time.monotonic()
        line = request_line(tool_id, input, ctx)
        collected = Collected(MAX_STDOUT)
        output: list[Any] = []
        brought: dict[str, bytes] = {}

        def keep(scratch: Path, outcome: Outcome) -> None:
            if outcome.out_of_memory:
                raise ToolLimitError(f"{tool_id} used more than {self._limits.memory} bytes of memory and was killed")
            output.append(read_answer(tool_id, bytes(collected.stdout), outcome.exit_code, bytes(collected.stderr)))
            brought.update((name, read_scratch(scratch, name, limit=self._limits.scratch)) for name in files)

        job = Job(
            tool=tool_id,
            worker=choose_worker(self.project, self._worker, self._image_of(tool_id)),
            timeout=timeout or self._timeout,
            env=env or {},
            dry_run=dry_run,
            keep=keep,
        )

        def feed(stream: Any) -> None:
            stream.write(line)
            stream.end_input()

        run, outcome = self.run(job, feed=feed, output=watched(collected, watch), cancellation=cancellation)
        seconds = time.monotonic() - began
        said = collected.stderr.decode(errors="replace")
        return ToolResult(output[0], said, seconds, outcome.start_seconds, run, brought)

    async def run_tool_async(self, tool_id: str, input: Any, ctx: Any = None, **options: Any) -> ToolResult:  # noqa: A002  as above
        """`run_tool` without blocking the event loop. Cancelling the task kills the container at once."""
        return await self._crew.wait_for(
            lambda hand: self.run_tool(tool_id, input, ctx, cancellation=hand.cancellation, **options)
        )

    def run(
        self, job: Job, *, feed: Feed, output: Output, cancellation: Cancellation | None = None
    ) -> tuple[str, Outcome]:
        """Runs one job in a slot of its own; returns the run's id and how it ended. Raises SandboxError."""
        check_tool_id(job.tool)
        view = view_of(job.project, self.workspace, job.mounts, Path.cwd(), writable=self._settings.project.writable)
        user = self._user_of(job, view)
        with contextlib.ExitStack() as stack:
            if job.every_change or any(not tree.read_only for tree in view.trees):
                from cloned_proxy.runner.project.aftermath import looking_back  # noqa: PLC0415  most runs change nothing

                stack.enter_context(looking_back(view, job.report, every_file=job.every_change, spool=self._runs))
            home = ""
            if job.home:
                kept = Homes(self.workspace).use(job.tool, user=user, size=self._limits.kept_home)
                home = str(stack.enter_context(kept))
            pool = self._pools.for_tool(self._network, job.tool)
            slot = stack.enter_context(pool.acquire())
            return self._run_in(
                slot, lambda: pool.alive(slot), job, feed, output, view=view, user=user, home=home, cancel=cancellation
            )

    def _run_in(
        self,
        slot: Slot,
        held: Callable[[], bool],
        job: Job,
        feed: Feed,
        output: Output,
        *,
        view: View,
        user: str,
        home: str,
        cancel: Cancellation | None,
    ) -> tuple[str, Outcome]:
        run = secrets.token_hex(4)
        recorded = f"{DRY_RUN_MARK}{run}" if job.dry_run else run
        if job.begun is not None:
            job.begun(recorded)
        began = time.monotonic()
        result, reason, start_seconds = "error", "interrupted", None
        names = slot.names(names_for(self._settings, job.tool))
        scratch = new_scratch(self._runs / self._owner / "scratch", run)
        spec: SandboxSpec | None = None
        announced = None if names is None else names.handover
        command = redact_command(job.worker.command)
        opening = OpenSlot(job.tool, recorded, slot.handovers, command, self._owner, engine_host(), announced)
        link = ProxyLink(self.workspace, opening, partial(slot.open_sockets, names))
        try:
            spec = self._spec(job, run, slot, scratch, view=view, user=user, home=home)
            # The only way out is open before anything runs that could want to go another way.
            ca = link.open().ca
            if ca is not None or self._private_cas:
                spec = self._with_trust(spec, scratch, ca)
            name = spec.name
            with while_held(held, lambda: self._engine.kill(name)):
                outcome = execute(
                    self._engine, spec, feed=feed, output=output, timeout=job.timeout, cancellation=cancel
                )
            start_seconds = outcome.start_seconds
            if job.keep is not None:
                job.keep(scratch, outcome)
            result, reason = ("ok", "") if outcome.exit_code == 0 else ("failed", f"exit code {outcome.exit_code}")
        except SandboxError as error:
            result, reason = error.result, error.on_record
            raise
        finally:
            link.close(RunEnd(result, time.monotonic() - began, start_seconds, reason))
            self._remove_scratch(scratch, spec)
        return run, outcome

    def _spec(self, job: Job, run: str, slot: Slot, scratch: Path, *, view: View, user: str, home: str) -> SandboxSpec:
        spec = SandboxSpec(
            tool=job.tool,
            run=run,
            name=f"cloned_tool_{run}",
            image=job.worker.image,
            command=job.worker.command,
            holder=slot.holder,
            scratch=str(scratch),
            seccomp=self._seccomp,
            user=user,
            home=home,
            owner=self._owner,
            workspace_mark=workspace_mark(self.workspace),
            binds=view.binds,
            masked=view.masked,
            workdir=view.workdir,
            env={**job.env, **git_environment(view.repositories, job.env)},
            mounts=view.mounts,
            terminal=job.terminal,
            limits=self._limits,
        )
        if not job.project.as_caller:
            return spec
        return replace(spec, binds=(*spec.binds, *write_account(scratch, user, tool_environment(spec)["HOME"])))

    def _with_trust(self, spec: SandboxSpec, scratch: Path, workspace_ca: str | None) -> SandboxSpec:
        from cloned_proxy.runner.trust import browser_binds, write_trust  # noqa: PLC0415  long, and most need neither

        write_trust(scratch, self._private_cas, workspace_ca)
        return replace(spec, with_ca=True, binds=(*spec.binds, *browser_binds(scratch)))

    def _remove_scratch(self, scratch: Path, spec: SandboxSpec | None) -> None:
        if remove_scratch(scratch):
            return
        # Without root, what the tool closed against others is closed against us: its own user opens it.
        if spec is not None:
            with contextlib.suppress(SandboxError):
                sweep(self._engine, spec, seconds=_SWEEP_SECONDS)
        if not remove_scratch(scratch):
            _log.warning("a scratch directory could not be removed; remove it as root", path=str(scratch))

    def _image_of(self, tool: str) -> str | None:
        return self._image or self._settings.images.get(tool) or self._settings.image

    def _user_of(self, job: Job, view: View) -> str:
        image = job.worker.image
        found = self._users.get(image)
        if found is None:
            found = self._users[image] = user_of(image, check_current(self._engine, image))
        return user_of_caller(view.project, self._engine.facts()) if job.project.as_caller else found


def _private_cas(files: Sequence[str], workspace: Path) -> str:
    if not files:
        return ""
    from cloned_proxy.runner.trust import read_ca_files  # noqa: PLC0415  as above

    return read_ca_files(files, workspace)
