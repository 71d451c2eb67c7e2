"""`exec`: any command as a sandboxed tool; its streams, its exit code, its Ctrl-C."""

from __future__ import annotations

from typing import Annotated

import typer

from cloned_proxy.cli.commands.sandbox.exec_options import (
    EnvironmentOptions,
    ExecOptions,
    FileOptions,
    LimitOptions,
    TerminalOptions,
)
from cloned_proxy.cli.commands.sandbox.exec_words import (
    CpusOption,
    DiffOption,
    EnvFileOption,
    EnvOption,
    HomeOption,
    ImageOption,
    InteractiveOption,
    MemoryOption,
    MountOption,
    NetworkOption,
    ProjectOption,
    TimeoutOption,
    ToolArgument,
    TtyOption,
    UserOption,
    WorkdirOption,
    WritableOption,
)
from cloned_proxy.cli.place.options import PolicyOption, WorkspaceOption


def exec_tool(
    *,
    tool: ToolArgument,
    command: Annotated[list[str], typer.Argument(metavar="-- CMD...", help="The command and its words.")],
    interactive: InteractiveOption = False,  # noqa: ARG001  it is so in any case
    tty: TtyOption = False,
    image: ImageOption = None,
    network: NetworkOption = None,
    home: HomeOption = False,
    env: EnvOption = None,
    env_file: EnvFileOption = None,
    mount: MountOption = None,
    project: ProjectOption = "ro",
    workdir: WorkdirOption = None,
    writable: WritableOption = None,
    user: UserOption = None,
    diff: DiffOption = False,
    timeout: TimeoutOption = None,
    memory: MemoryOption = None,
    cpus: CpusOption = None,
    policy: PolicyOption = None,
    workspace: WorkspaceOption = None,
) -> None:
    """Run a command in a container whose only way out is the proxy."""
    from cloned_proxy.cli.commands.sandbox.exec_run import run_command

    options = ExecOptions(
        tool=tool,
        command=tuple(command),
        image=image,
        network=network,
        files=FileOptions(
            mounts=tuple(mount or ()),
            home=home,
            project=project,
            workdir=workdir,
            writable=tuple(writable or ()),
            user=user,
            diff=diff,
        ),
        environment=EnvironmentOptions(variables=tuple(env or ()), files=tuple(env_file or ())),
        terminal=TerminalOptions(tty=tty),
        limits=LimitOptions(timeout=timeout, memory=memory, cpus=cpus),
        policy=policy,
        workspace=workspace,
    )
    raise typer.Exit(run_command(options))
