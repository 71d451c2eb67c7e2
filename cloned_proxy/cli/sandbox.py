"""What `exec` does: from the words of the command line to a run, with the terminal's streams on both ends."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from dataclasses import replace
from typing import Final

from cloned_proxy.cli.errors import FAILED, INTERRUPTED, TIMED_OUT, CommandError, say
from cloned_proxy.cli.exec_job import check_project, job_of
from cloned_proxy.cli.exec_options import ExecOptions
from cloned_proxy.cli.host_terminal import HostTerminal
from cloned_proxy.cli.interruption import interruptible
from cloned_proxy.cli.refusals import Refusals
from cloned_proxy.cli.terminal_environment import terminal_environment
from cloned_proxy.runner.errors import SandboxError, SandboxInputError, ToolTimeoutError
from cloned_proxy.runner.execution import Outcome
from cloned_proxy.runner.runner import DockerContainerRunner
from cloned_proxy.runner.standby import proxy_for
from cloned_proxy.runner.stream import Attached, Stream
from cloned_proxy.store.workspace import Workspace
from cloned_proxy.telemetry.later import configure_logging_later

_CHUNK: Final = 65_536


def run_command(options: ExecOptions) -> int:
    """Runs it and returns the exit code to pass on. Raises CommandError."""
    configure_logging_later()
    try:
        outcome = _execute(options)
    except ToolTimeoutError as error:
        say(f"cloned-proxy: {error}")
        return TIMED_OUT
    except KeyboardInterrupt:
        return INTERRUPTED
    except SandboxInputError as error:
        raise CommandError(str(error)) from error
    except SandboxError as error:
        raise CommandError(str(error), code=FAILED) from error
    if outcome.out_of_memory:
        say(f"cloned-proxy: {options.tool} used more memory than it may; raise --memory")
    return outcome.exit_code


def _execute(options: ExecOptions) -> Outcome:
    terminal = HostTerminal() if options.terminal.tty else None
    workspace = Workspace.find(options.workspace)
    check_project(options.files, workspace.root)
    workspace.create()
    job = job_of(options, workspace.sandbox_settings())
    if terminal is not None:
        job = replace(job, terminal=terminal.size, env={**terminal_environment(os.environ), **job.env})
    with (
        interruptible(),
        proxy_for(workspace.root, say, policy=options.policy),
        DockerContainerRunner(
            workspace=workspace.root,
            network=options.network,
            cpus=options.limits.cpus,
            memory=options.limits.memory,
            spare_slots=0,
        ) as runner,
        Refusals(workspace.state_db, options.tool, at_once=terminal is None) as refusals,
        terminal or nullcontext(),
    ):
        feed, output = (terminal.feed, terminal.show) if terminal is not None else (_feed_stdin, _print)
        _, outcome = runner.run(replace(job, begun=refusals.begin), feed=feed, output=output)
    return outcome


def _feed_stdin(stream: Attached) -> None:
    while data := os.read(0, _CHUNK):
        stream.write(data)
    stream.end_input()


def _print(kind: Stream, piece: bytes) -> None:
    target = sys.stderr if kind is Stream.STDERR else sys.stdout
    target.buffer.write(piece)
    target.buffer.flush()
