"""`setup PROGRAM`: the change to another program's own settings that makes this proxy its way out."""

from __future__ import annotations

from typing import Annotated

import typer

from cloned_proxy.cli.place.options import JsonOption, WorkspaceOption


def _programs() -> list[str]:
    from cloned_proxy.runner.setup.programs import PROGRAMS

    return list(PROGRAMS)


def setup(
    program: Annotated[
        str,
        typer.Argument(
            metavar="PROGRAM",
            help="claude-code, codex, gemini-cli, vscode, cursor, git, docker or java.",
            autocompletion=_programs,
        ),
    ],
    *,
    write: Annotated[bool, typer.Option("--write", help="Make the change; otherwise it is only shown.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Take it back, byte for byte.")] = False,
    scope: Annotated[
        str | None, typer.Option("--scope", metavar="SCOPE", help="user, project or system: whose settings.")
    ] = None,
    tool: Annotated[
        str | None, typer.Option("--tool", metavar="TOOL", help="Write a credential of this tool into the file, too.")
    ] = None,
    ttl: Annotated[str, typer.Option("--ttl", metavar="DURATION", help="How long that one is good for.")] = "30d",
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make this proxy the way out of another program's settings."""
    from cloned_proxy.cli.commands.clients.setup_files import SetupOptions, set_up

    raise typer.Exit(set_up(SetupOptions(program, write, undo, scope, tool, ttl, workspace, as_json)))
