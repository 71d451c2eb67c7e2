"""From the options of a command line to the job for a runner: each option is checked, and given its meaning."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from cloned_proxy.cli.commands.sandbox.exec_options import ExecOptions, FileOptions
from cloned_proxy.cli.commands.sandbox.variables import variables
from cloned_proxy.cli.show.errors import CommandError
from cloned_proxy.runner.images.tool_program import PYTHON_IMAGE, ToolProgram
from cloned_proxy.runner.project.place import ProjectAccess, check_caller, project_of
from cloned_proxy.runner.project.view import ProjectWish
from cloned_proxy.runner.runs.job import Job
from cloned_proxy.runner.values.spec import Mount, check_tool_id

if TYPE_CHECKING:
    from cloned_proxy.store.settings.config import SandboxSettings


def job_of(options: ExecOptions, settings: SandboxSettings) -> Job:
    """Raises CommandError and SandboxInputError for what cannot be meant."""
    check_tool_id(options.tool)
    return Job(
        tool=options.tool,
        program=ToolProgram(image_of(options, settings), options.command),
        env=variables(options.environment.variables, options.environment.files),
        mounts=tuple(parse_mount(text) for text in options.files.mounts),
        project=wish_of(options.files),
        every_change=options.files.diff,
        home=options.files.home,
        timeout=options.limits.timeout,
    )


def wish_of(files: FileOptions) -> ProjectWish:
    """What is asked for of the project. A writable one is of use to its owner alone, so `rw` means `--user me`."""
    access = ProjectAccess(files.project)
    return ProjectWish(
        access=access,
        own_path=access is not ProjectAccess.NONE,
        workdir=files.workdir,
        writable=tuple(os.path.normpath(Path.cwd() / path) for path in files.writable),
        as_caller=files.user == "me" or access is ProjectAccess.READ_WRITE,
    )


def check_project(files: FileOptions, workspace: Path) -> None:
    """Raises SandboxInputError for what cannot be, before anything is started or written: see `place`."""
    wish = wish_of(files)
    project = None if wish.access is ProjectAccess.NONE else project_of(workspace, Path.cwd())
    if wish.as_caller:
        check_caller(project)


def check_policy(policy: Path | None, workspace: Path) -> None:
    """Raises CommandError where a proxy serves the workspace already, by another policy: that one decides."""
    if policy is None:
        return
    from cloned_proxy.store.workspaces.serving import server_of

    serving = server_of(workspace)
    if serving is not None and serving.policy.resolve() != policy.expanduser().absolute().resolve():
        raise CommandError(
            f"--policy {policy}: a proxy serves {workspace} already, by {serving.policy}, and that one decides; "
            "leave --policy out, end that proxy, or use a workspace of its own (--workspace)"
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
