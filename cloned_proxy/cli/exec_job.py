"""From the options of a command line to the job for a runner: each option is checked, and given its meaning."""

from __future__ import annotations

from pathlib import Path

from cloned_proxy.cli.errors import CommandError
from cloned_proxy.cli.exec_options import ExecOptions
from cloned_proxy.runner.job import Job
from cloned_proxy.runner.spec import Mount, check_tool_id
from cloned_proxy.runner.worker import PYTHON_IMAGE, Worker
from cloned_proxy.store.config import SandboxSettings


def job_of(options: ExecOptions, settings: SandboxSettings) -> Job:
    """Raises CommandError and SandboxInputError for what cannot be meant."""
    check_tool_id(options.tool)
    return Job(
        tool=options.tool,
        worker=Worker(image_of(options, settings), options.command),
        env=dict(_variable(text) for text in options.environment.variables),
        mounts=tuple(parse_mount(text) for text in options.files.mounts),
        timeout=options.limits.timeout,
    )


def image_of(options: ExecOptions, settings: SandboxSettings) -> str:
    """The image: as typed, else the tool's own of config.yaml, else everybody's, else the worker's."""
    return options.image or settings.images.get(options.tool) or settings.image or PYTHON_IMAGE


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
