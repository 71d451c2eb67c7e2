"""`shell`: a terminal in the sandbox, for a person or for an agent that works on the project."""

from __future__ import annotations

import os
from typing import Annotated, Any, Final, Literal

import typer
import typer.core

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
    ImageOption,
    MountOption,
    NetworkOption,
    ProjectOption,
    TimeoutOption,
    WorkdirOption,
    WritableOption,
)
from cloned_proxy.cli.place.options import PolicyOption, WorkspaceOption

_BEHIND: Final = "cloned_proxy.behind_dashes"


class BehindDashes(typer.core.TyperCommand):
    """A command whose last words stand behind `--`, where an optional argument in front of them may be missing."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Keeps what stands behind `--` apart: Click itself would fill the arguments from left to right."""
        cut = args.index("--") if "--" in args else len(args)
        ctx.meta[_BEHIND] = tuple(args[cut + 1 :])
        return super().parse_args(ctx, args[:cut])

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """With the words that are no argument of Click's."""
        return [*super().collect_usage_pieces(ctx), "[-- CMD...]"]


def shell(
    context: typer.Context,
    *,
    tool: Annotated[
        str | None,
        typer.Argument(metavar="TOOL", help="Its rules apply; default: CMD@v1, such as claude@v1, else shell@v1."),
    ] = None,
    image: ImageOption = None,
    network: NetworkOption = None,
    env: EnvOption = None,
    env_file: EnvFileOption = None,
    mount: MountOption = None,
    project: ProjectOption = "rw",
    workdir: WorkdirOption = None,
    writable: WritableOption = None,
    diff: DiffOption = False,
    timeout: TimeoutOption = None,
    memory: Annotated[str, typer.Option("--memory", metavar="SIZE", help="Such as 8g.")] = "4g",
    cpus: CpusOption = None,
    policy: PolicyOption = None,
    workspace: WorkspaceOption = None,
) -> None:
    """Open a terminal in the sandbox, with the project writable. Without CMD: a shell."""
    from cloned_proxy.cli.commands.sandbox.exec_run import run_command
    from cloned_proxy.cli.commands.sandbox.shell_session import command_of, tell_rules, tool_of

    # A tool never runs as root; a root that writes to a project does so as the project's owner.
    user: Literal["me"] | None = "me" if os.geteuid() != 0 or project == "rw" else None
    typed: tuple[str, ...] = context.meta[_BEHIND]
    options = ExecOptions(
        tool=tool_of(tool, typed),
        command=command_of(typed),
        image=image,
        network=network,
        files=FileOptions(
            mounts=tuple(mount or ()),
            project=project,
            workdir=workdir,
            writable=tuple(writable or ()),
            diff=diff,
            user=user,
            home=True,
        ),
        environment=EnvironmentOptions(variables=tuple(env or ()), files=tuple(env_file or ())),
        limits=LimitOptions(timeout=timeout, memory=memory, cpus=cpus),
        terminal=TerminalOptions(tty=True),
        policy=policy,
        workspace=workspace,
    )
    raise typer.Exit(run_command(options, ready=lambda: tell_rules(options)))
