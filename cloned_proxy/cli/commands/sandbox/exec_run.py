"""What `exec` does: from the words of the command line to a run, with the terminal's streams on both ends."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cloned_proxy.cli.commands.sandbox.exec_job import check_policy, check_project, job_of
from cloned_proxy.cli.commands.sandbox.exec_options import ExecOptions
from cloned_proxy.cli.commands.sandbox.exit_explained import LastWords, explained
from cloned_proxy.cli.commands.sandbox.project_report import Reports
from cloned_proxy.cli.commands.sandbox.refusals import Refusals
from cloned_proxy.cli.show.errors import INTERRUPTED, TIMED_OUT, say
from cloned_proxy.cli.terminal.host_terminal import HostTerminal
from cloned_proxy.cli.terminal.interruption import interruptible
from cloned_proxy.cli.terminal.pipes import StandardStreams
from cloned_proxy.cli.terminal.terminal_environment import terminal_environment
from cloned_proxy.runner.runs.execution import Outcome
from cloned_proxy.runner.runs.prepared import Prepared
from cloned_proxy.runner.runs.runner import DockerContainerRunner
from cloned_proxy.runner.slots.standby import proxy_for
from cloned_proxy.runner.values.errors import ToolTimeoutError
from cloned_proxy.store.workspaces.workspace import Workspace
from cloned_proxy.telemetry.later import configure_logging_later


def run_command(
    options: ExecOptions, *, ready: Callable[[], None] | None = None, prepared: Prepared | None = None
) -> int:
    """Runs it and returns the exit code to pass on. Raises CommandError.

    `ready` is called when a proxy serves the workspace, before the command starts. `prepared` is a container that may
    be the command's (`DockerContainerRunner.run`).
    """
    configure_logging_later()
    try:
        outcome = _execute(options, ready, prepared)
    except ToolTimeoutError as error:
        say(f"cloned-proxy: {error}")
        return TIMED_OUT
    except KeyboardInterrupt:
        return INTERRUPTED
    if outcome.out_of_memory:
        say(f"cloned-proxy: {options.tool} used more memory than it may; raise --memory or sandbox.memory_mib")
    return outcome.exit_code


def _execute(options: ExecOptions, ready: Callable[[], None] | None, prepared: Prepared | None) -> Outcome:
    said = LastWords()
    connection = HostTerminal() if options.terminal.tty else StandardStreams()
    workspace = Workspace.find(options.workspace)
    check_project(options.files, workspace.root)
    workspace.create()
    check_policy(options.policy, workspace.root)
    job = job_of(options, workspace.sandbox_settings())
    if isinstance(connection, HostTerminal):
        job = replace(job, terminal=connection.size, env={**terminal_environment(os.environ), **job.env})
    with (
        interruptible(),
        proxy_for(workspace.root, say, policy=options.policy),
        runner_for(options, workspace.root) as runner,
        Refusals(workspace.state_db, options.tool, at_once=not options.terminal.tty) as refusals,
        Reports() as reports,
        connection,
    ):
        if ready is not None:
            ready()
        output = said.listening(connection.show)
        _, outcome = runner.run(
            replace(job, begun=refusals.begin, report=reports.add),
            feed=connection.feed,
            output=output,
            prepared=prepared,
        )
    if (reason := explained(outcome.exit_code, job, said)) is not None:
        say(f"cloned-proxy: {reason}")
    return outcome


def runner_for(options: ExecOptions, workspace: Path) -> DockerContainerRunner:
    """A runner for this one command. Raises SandboxError and StoreError."""
    return DockerContainerRunner(
        workspace=workspace,
        network=options.network,
        cpus=options.limits.cpus,
        memory=options.limits.memory,
        spare_slots=0,
    )
