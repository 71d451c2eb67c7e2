"""What `exec` does: from the words of the command line to a run, with the terminal's streams on both ends."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloned_proxy.cli.errors import FAILED, INTERRUPTED, TIMED_OUT, CommandError, say
from cloned_proxy.cli.interruption import interruptible
from cloned_proxy.cli.refusals import Refusals
from cloned_proxy.runner.errors import SandboxError, SandboxInputError, ToolTimeoutError
from cloned_proxy.runner.execution import Outcome
from cloned_proxy.runner.job import Job
from cloned_proxy.runner.runner import DockerContainerRunner
from cloned_proxy.runner.spec import Mount, check_tool_id
from cloned_proxy.runner.standby import proxy_for
from cloned_proxy.runner.stream import Attached, Stream
from cloned_proxy.runner.worker import PYTHON_IMAGE, Worker
from cloned_proxy.store.workspace import Workspace
from cloned_proxy.telemetry.log import configure_logging

_CHUNK: Final = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecOptions:
    tool: str
    command: tuple[str, ...]
    image: str | None
    network: str | None
    env: tuple[str, ...]
    mounts: tuple[str, ...]
    timeout: float | None
    memory: str | None
    """None: as config.yaml says."""
    cpus: float | None
    policy: Path | None
    workspace: Path | None


def run_command(options: ExecOptions) -> int:
    """Runs it and returns the exit code to pass on. Raises CommandError."""
    configure_logging()
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
    check_tool_id(options.tool)
    env = dict(_variable(text) for text in options.env)
    mounts = tuple(parse_mount(text) for text in options.mounts)
    workspace = Workspace.find(options.workspace)
    workspace.create()
    settings = workspace.config().sandbox
    with (
        interruptible(),
        proxy_for(workspace.root, say, policy=options.policy),
        DockerContainerRunner(
            workspace=workspace.root,
            network=options.network,
            cpus=options.cpus,
            memory=options.memory,
            spare_slots=0,
        ) as runner,
    ):
        image = options.image or settings.images.get(options.tool) or settings.image or PYTHON_IMAGE
        worker = Worker(image, options.command)
        with Refusals(workspace.state_db, options.tool) as refusals:
            job = Job(
                tool=options.tool,
                worker=worker,
                env=env,
                mounts=mounts,
                timeout=options.timeout,
                begun=refusals.begin,
            )
            _, outcome = runner.run(job, feed=_feed_stdin, output=_print)
    return outcome


def parse_mount(text: str) -> Mount:
    """`SRC:DST`, read-only, or `SRC:DST:rw`. Raises CommandError."""
    parts = text.split(":")
    match parts:
        case [source, target] | [source, target, "ro"]:
            return Mount(str(Path(source).expanduser().absolute()), target)
        case [source, target, "rw"]:
            return Mount(str(Path(source).expanduser().absolute()), target, read_only=False)
        case _:
            raise CommandError(f"--mount {text!r}: write SRC:DST or SRC:DST:rw, as in ./data:/mnt/data")


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise CommandError(f"--env {text!r}: write NAME=VALUE; nothing is taken over from this environment")
    return name, value


def _feed_stdin(stream: Attached) -> None:
    while data := os.read(0, _CHUNK):
        stream.write(data)
    stream.end_input()


def _print(kind: Stream, piece: bytes) -> None:
    target = sys.stderr if kind is Stream.STDERR else sys.stdout
    target.buffer.write(piece)
    target.buffer.flush()
