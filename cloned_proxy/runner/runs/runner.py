"""`DockerContainerRunner`: any Cloned tool, or any command, in a container whose only way out is the proxy."""

from __future__ import annotations

import contextlib
import os
import time
import weakref
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.files.files import read_scratch
from cloned_proxy.runner.files.homes import Homes
from cloned_proxy.runner.images.image_check import check_current
from cloned_proxy.runner.images.tool_program import WorkerKind, choose_worker, read_answer, request_line, user_of
from cloned_proxy.runner.project.place import user_of_caller
from cloned_proxy.runner.project.view import View, view_of
from cloned_proxy.runner.runs.calls import ContainerCalls
from cloned_proxy.runner.runs.crew import Crew
from cloned_proxy.runner.runs.execution import MAX_STDOUT, Collected, Feed, Outcome, Output
from cloned_proxy.runner.runs.job import Job, ToolResult, Watch, watched
from cloned_proxy.runner.runs.slot_run import Site, SlotRun, new_run, private_cas
from cloned_proxy.runner.slots.lender import Lender
from cloned_proxy.runner.slots.networks import SEALED
from cloned_proxy.runner.slots.owner import owner_id, remove_leftovers
from cloned_proxy.runner.slots.pools import Pools
from cloned_proxy.runner.values.cancellation import Cancellation
from cloned_proxy.runner.values.errors import ToolLimitError
from cloned_proxy.runner.values.limits import limits_from
from cloned_proxy.runner.values.spec import check_tool_id
from cloned_proxy.share import share_path
from cloned_proxy.store.workspaces.workspace import Workspace

if TYPE_CHECKING:
    from cloned_proxy.runner.runs.prepared import Prepared

NETWORK_VARIABLE: Final = "CLONED_SANDBOX_NETWORK"


class DockerContainerRunner(ContainerCalls):
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
        self._limits = limits_from(settings, cpus=cpus, memory=memory)
        self._worker = worker or WorkerKind(settings.worker)
        self._timeout = timeout or settings.timeout
        self._engine = engine or Engine.connect()
        self._own_engine = engine is None
        self._users: dict[str, str] = {}
        self._site = Site(
            engine=self._engine,
            workspace=self.workspace,
            owner=owner_id(),
            seccomp=share_path("sandbox", "seccomp.json").read_text(encoding="utf-8"),
            settings=settings,
            limits=self._limits,
            private_cas=private_cas(settings.ca_files, self.workspace),
        )
        self._pools = Pools(
            self._engine,
            workspace=self.workspace,
            owner=self._site.owner,
            seccomp=self._site.seccomp,
            spare=spare_slots,
            enter=enter_namespaces,
            lender=Lender(self.workspace, self._site.owner),
        )
        # At the latest when the interpreter ends: a run that nobody waits for any more is no reason to stay.
        self._crew = Crew()
        self._at_exit = weakref.finalize(self, self._crew.end_all)
        remove_leftovers(self._engine, self._site.runs)

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
        input: Any,  # noqa: A002  as in the object that the tool reads
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
            program=choose_worker(self.project, self._worker, self._image_of(tool_id)),
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
        self,
        job: Job,
        *,
        feed: Feed,
        output: Output,
        cancellation: Cancellation | None = None,
        prepared: Prepared | None = None,
    ) -> tuple[str, Outcome]:
        """Runs one job in a slot of its own; returns the run's id and how it ended. Raises SandboxError.

        `prepared` is a container that waits (`prepare`); it is used if it is what would be made for this job now.
        """
        check_tool_id(job.tool)
        view = self._view_of(job)
        user = self._user_of(job, view)
        with contextlib.ExitStack() as stack:
            if job.every_change or any(not tree.read_only for tree in view.trees):
                from cloned_proxy.runner.project.aftermath import looking_back  # noqa: PLC0415  most runs change nothing

                stack.enter_context(looking_back(view, job.report, every_file=job.every_change, spool=self._site.runs))
            home = ""
            if job.home:
                kept = Homes(self.workspace).use(job.tool, user=user, size=self._limits.kept_home)
                home = str(stack.enter_context(kept))
            if prepared is not None and stack.enter_context(prepared.lent(self._network)):
                slot, run, scratch, alive = prepared.slot, prepared.run, prepared.scratch, prepared.alive
            else:
                prepared = None
                pool = self._pools.for_tool(self._network, job.tool)
                slot = stack.enter_context(pool.acquire())
                run = new_run()
                scratch, alive = self._site.new_scratch(run), partial(pool.alive, slot)
            planned = SlotRun(
                site=self._site, job=job, slot=slot, view=view, user=user, home=home, run=run, scratch=scratch
            )
            return run, planned.execute(alive, feed, output, cancellation, prepared)

    def prepare(self, job: Job) -> Prepared | None:
        """A container for a job of which everything but the command is known, started and waiting for that.

        None where a job cannot be prepared (`prepared.can_wait`). Raises SandboxError.
        """
        from cloned_proxy.runner.runs.prepared import can_wait, prepare  # noqa: PLC0415  few processes prepare anything

        check_tool_id(job.tool)
        view = self._view_of(job)
        if self._network != SEALED or not can_wait(job, view):
            return None
        user = self._user_of(job, view)
        return prepare(self._site, self._pools.of(SEALED), job, view, user)

    def _view_of(self, job: Job) -> View:
        return view_of(job.project, self.workspace, job.mounts, Path.cwd(), writable=self._settings.project.writable)

    def _image_of(self, tool: str) -> str | None:
        return self._image or self._settings.images.get(tool) or self._settings.image

    def _user_of(self, job: Job, view: View) -> str:
        image = job.program.image
        found = self._users.get(image)
        if found is None:
            found = self._users[image] = user_of(image, check_current(self._engine, image))
        return user_of_caller(view.project, self._engine.facts()) if job.project.as_caller else found
