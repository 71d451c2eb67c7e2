"""`exec`: any command as a sandboxed tool; its streams, its exit code, its Ctrl-C."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cloned_proxy.cli.options import PolicyOption, WorkspaceOption


def exec_tool(
    *,
    tool: Annotated[str, typer.Argument(metavar="TOOL", help="Tool id: its rules apply.")],
    command: Annotated[list[str], typer.Argument(metavar="-- CMD...", help="The command and its words.")],
    image: Annotated[str | None, typer.Option("--image", metavar="I", help="Image; default: the worker's.")] = None,
    network: Annotated[
        str | None,
        typer.Option(
            "--network",
            metavar="N",
            envvar="CLONED_SANDBOX_NETWORK",
            help="Named network: weaker than none (default).",
        ),
    ] = None,
    home: Annotated[bool, typer.Option("--home", help="Keep the tool's home for its next run.")] = False,
    env: Annotated[
        list[str] | None, typer.Option("--env", metavar="NAME[=VALUE]", help="Set a variable, or take yours over.")
    ] = None,
    env_file: Annotated[
        list[Path] | None, typer.Option("--env-file", metavar="FILE", help="Variables, one a line, as docker has it.")
    ] = None,
    mount: Annotated[
        list[str] | None, typer.Option("--mount", metavar="SRC:DST[:rw]", help="Show a file or directory, read-only.")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option("--timeout", metavar="SECONDS", min=0.1, help="Kill it after; exit code 124.")
    ] = None,
    memory: Annotated[
        str | None, typer.Option("--memory", metavar="SIZE", help="Such as 2g; default: 512m, or config.yaml's.")
    ] = None,
    cpus: Annotated[
        float | None, typer.Option("--cpus", metavar="N", min=0.01, help="Default: 1, or config.yaml's.")
    ] = None,
    policy: PolicyOption = None,
    workspace: WorkspaceOption = None,
) -> None:
    """Run a command in a container whose only way out is the proxy."""
    from cloned_proxy.cli.sandbox import ExecOptions, run_command

    options = ExecOptions(
        tool=tool,
        command=tuple(command),
        image=image,
        network=network,
        home=home,
        env=tuple(env or ()),
        env_files=tuple(env_file or ()),
        mounts=tuple(mount or ()),
        timeout=timeout,
        memory=memory,
        cpus=cpus,
        policy=Path(policy) if policy is not None else None,
        workspace=workspace,
    )
    raise typer.Exit(run_command(options))
