"""One run of one job in one slot: from its way out, which is open before anything runs, to its entry in the log."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cloned_proxy.local.slot_protocol import DRY_RUN_MARK, OpenSlot, RunEnd
from cloned_proxy.policy.secrets.redact import redact_command
from cloned_proxy.runner.docker.containers import tool_environment
from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.docker.engine_address import engine_host
from cloned_proxy.runner.files.files import new_scratch, remove_scratch
from cloned_proxy.runner.files.homes import link_nss
from cloned_proxy.runner.project.account import git_environment, write_account
from cloned_proxy.runner.project.view import View
from cloned_proxy.runner.runs.execution import Feed, Outcome, Output, execute
from cloned_proxy.runner.runs.job import Job
from cloned_proxy.runner.runs.sweeping import sweep
from cloned_proxy.runner.slots.holder_watch import while_held
from cloned_proxy.runner.slots.link import ProxyLink
from cloned_proxy.runner.slots.slots import Slot
from cloned_proxy.runner.values.cancellation import Cancellation
from cloned_proxy.runner.values.errors import SandboxError
from cloned_proxy.runner.values.limits import names_for
from cloned_proxy.runner.values.spec import SandboxLimits, SandboxSpec, workspace_mark
from cloned_proxy.telemetry.later import LaterLogger

if TYPE_CHECKING:
    from cloned_proxy.runner.runs.prepared import Prepared
    from cloned_proxy.store.settings.config import SandboxSettings

_log = LaterLogger(__name__)

_SWEEP_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What all runs of one runner have in common."""

    engine: Engine
    workspace: Path
    owner: str
    """The mark of this process on what it makes (`owner.owner_id`)."""
    seccomp: str
    settings: SandboxSettings
    limits: SandboxLimits
    private_cas: str
    """PEM text of `sandbox: {ca_files: […]}`."""

    @property
    def runs(self) -> Path:
        return self.workspace / "run"

    def new_scratch(self, run: str) -> Path:
        return new_scratch(self.runs / self.owner / "scratch", run)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotRun:
    """A job with all that decides how its container looks."""

    site: Site
    job: Job
    slot: Slot
    view: View
    user: str
    home: str
    """Host path of the kept home, or ""."""
    run: str
    scratch: Path

    @property
    def recorded(self) -> str:
        """The run's id as the log has it."""
        return f"{DRY_RUN_MARK}{self.run}" if self.job.dry_run else self.run

    def spec(self) -> SandboxSpec:
        """The container, before it is known whom the tool is to trust."""
        site, job = self.site, self.job
        spec = SandboxSpec(
            tool=job.tool,
            run=self.run,
            name=f"cloned_tool_{self.run}",
            image=job.program.image,
            command=job.program.command,
            holder=self.slot.holder,
            scratch=str(self.scratch),
            seccomp=site.seccomp,
            user=self.user,
            home=self.home,
            owner=site.owner,
            workspace_mark=workspace_mark(site.workspace),
            binds=self.view.binds,
            masked=self.view.masked,
            workdir=self.view.workdir,
            env={**job.env, **git_environment(self.view.repositories, job.env)},
            mounts=self.view.mounts,
            terminal=job.terminal,
            limits=site.limits,
        )
        if not job.project.as_caller:
            return spec
        return replace(
            spec, binds=(*spec.binds, *write_account(self.scratch, self.user, tool_environment(spec)["HOME"]))
        )

    def trusting(self, spec: SandboxSpec, workspace_ca: str | None, *, write: bool = True) -> SandboxSpec:
        """`workspace_ca`: PEM text of the workspace's CA, where a rule of the tool opens TLS.

        `write` False: what it is to trust lies in the directory of this call already.
        """
        more = workspace_ca is not None or bool(self.site.private_cas)
        if self.home:
            link_nss(Path(self.home), wanted=more)
        if not more:
            return spec
        from cloned_proxy.runner.trust import trust  # noqa: PLC0415  long, and most need nothing of it

        if write:
            trust.write_trust(self.scratch, self.site.private_cas, workspace_ca)
        shown = trust.trust_binds(self.scratch, spec.mounts, home_in_memory=not self.home)
        return replace(spec, with_ca=True, binds=(*spec.binds, *shown))

    def execute(
        self,
        held: Callable[[], bool],
        feed: Feed,
        output: Output,
        cancellation: Cancellation | None,
        prepared: Prepared | None,
    ) -> Outcome:
        """Runs it, removes what it had, and puts its end on record. Raises SandboxError."""
        site, job = self.site, self.job
        if job.begun is not None:
            job.begun(self.recorded)
        began = time.monotonic()
        result, reason, start_seconds = "error", "interrupted", None
        spec: SandboxSpec | None = None
        link = self._link()
        try:
            spec = self.spec()
            # The only way out is open before anything runs that could want to go another way.
            ca = link.open().ca
            ready = None if prepared is None else prepared.for_run(self, spec, ca)
            spec = self.trusting(spec, ca, write=ready is None)
            name = spec.name
            with while_held(held, lambda: site.engine.kill(name)):
                outcome = execute(
                    site.engine,
                    spec,
                    feed=feed,
                    output=output,
                    timeout=job.timeout,
                    cancellation=cancellation,
                    ready=ready,
                )
            start_seconds = outcome.start_seconds
            if job.keep is not None:
                job.keep(self.scratch, outcome)
            result, reason = ("ok", "") if outcome.exit_code == 0 else ("failed", f"exit code {outcome.exit_code}")
        except SandboxError as error:
            result, reason = error.result, error.on_record
            raise
        finally:
            link.close(RunEnd(result, time.monotonic() - began, start_seconds, reason))
            self.remove_scratch(spec)
        return outcome

    def _link(self) -> ProxyLink:
        names = self.slot.names(names_for(self.site.settings, self.job.tool))
        opening = OpenSlot(
            self.job.tool,
            self.recorded,
            self.slot.handovers,
            redact_command(self.job.program.command),
            self.site.owner,
            engine_host(),
            None if names is None else names.handover,
        )
        return ProxyLink(self.site.workspace, opening, partial(self.slot.open_sockets, names))

    def remove_scratch(self, spec: SandboxSpec | None) -> None:
        """Removes the directory of this call. `spec` is the container's, if there was one."""
        if remove_scratch(self.scratch):
            return
        # Without root, what the tool closed against others is closed against us: its own user opens it.
        if spec is not None:
            with contextlib.suppress(SandboxError):
                sweep(self.site.engine, spec, seconds=_SWEEP_SECONDS)
        if not remove_scratch(self.scratch):
            _log.warning("a scratch directory could not be removed; remove it as root", path=str(self.scratch))


def new_run() -> str:
    """The id of a run: 8 hex digits."""
    return secrets.token_hex(4)


def private_cas(files: Sequence[str], workspace: Path) -> str:
    """PEM text of the CA files of the settings. Raises SandboxInputError."""
    if not files:
        return ""
    from cloned_proxy.runner.trust.trust import read_ca_files  # noqa: PLC0415  as above

    return read_ca_files(files, workspace)
