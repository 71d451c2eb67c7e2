"""`exec`: any command as a sandboxed tool; its streams, its exit code, its Ctrl-C."""

from __future__ import annotations

from typing import Annotated

import typer

from cloned_proxy.cli.exec_options import (
    CpusOption,
    EnvironmentOptions,
    EnvOption,
    ExecOptions,
    FileOptions,
    ImageOption,
    LimitOptions,
    MemoryOption,
    MountOption,
    NetworkOption,
    TimeoutOption,
    ToolArgument,
)
from cloned_proxy.cli.options import PolicyOption, WorkspaceOption


def exec_tool(
    *,
    tool: ToolArgument,
    command: Annotated[list[str], typer.Argument(metavar="-- CMD...", help="The command and its words.")],
    image: ImageOption = None,
    network: NetworkOption = None,
    env: EnvOption = None,
    mount: MountOption = None,
    timeout: TimeoutOption = None,
    memory: MemoryOption = None,
    cpus: CpusOption = None,
    policy: PolicyOption = None,
    workspace: WorkspaceOption = None,
) -> None:
    """Run a command in a container whose only way out is the proxy."""
    from cloned_proxy.cli.sandbox import run_command

    options = ExecOptions(
        tool=tool,
        command=tuple(command),
        image=image,
        network=network,
        files=FileOptions(mounts=tuple(mount or ())),
        environment=EnvironmentOptions(variables=tuple(env or ())),
        limits=LimitOptions(timeout=timeout, memory=memory, cpus=cpus),
        policy=policy,
        workspace=workspace,
    )
    raise typer.Exit(run_command(options))
