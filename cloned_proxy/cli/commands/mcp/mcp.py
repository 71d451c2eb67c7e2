"""`mcp`: MCP servers in the sandbox, from the files of the clients that start them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cloned_proxy.cli.place.options import DryRunOption, JsonOption, PolicyOption, WorkspaceOption

app = typer.Typer(
    help="MCP servers in the sandbox: wrap, add, run, check.", no_args_is_help=True, rich_markup_mode=None
)

FileArgument = Annotated[
    Path, typer.Argument(metavar="FILE", help="Of Claude, Cursor, VS Code, Gemini (JSON) or Codex (TOML).")
]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The server's name, as in `mcp list`.")]
ReportOption = Annotated[
    bool, typer.Option("--report", help="New servers may reach everything; what they reach is recorded.")
]


@app.command("wrap")
def wrap(
    file: FileArgument,
    *,
    dry_run: DryRunOption = False,
    report: ReportOption = False,
    workspace: WorkspaceOption = None,
    policy: PolicyOption = None,
) -> None:
    """Start the servers of a client's file in the sandbox from now on."""
    from cloned_proxy.cli.commands.mcp.wrap import wrap_file

    raise typer.Exit(wrap_file(file, dry_run=dry_run, report=report, workspace=workspace, policy=policy))


@app.command("unwrap")
def unwrap(file: FileArgument, *, dry_run: DryRunOption = False, workspace: WorkspaceOption = None) -> None:
    """Put a client's file back as it was."""
    from cloned_proxy.cli.commands.mcp.wrap import unwrap_file

    raise typer.Exit(unwrap_file(file, dry_run=dry_run, workspace=workspace))


@app.command("add")
def add(
    name: NameArgument,
    args: Annotated[list[str] | None, typer.Argument(metavar="-- ARG...", help="Words for the server.")] = None,
    *,
    npm: Annotated[str | None, typer.Option("--npm", metavar="P@V", help="The server is this package of npm.")] = None,
    pypi: Annotated[str | None, typer.Option("--pypi", metavar="P==V", help="It is this one of PyPI.")] = None,
    env: Annotated[
        list[str] | None, typer.Option("--env", metavar="NAME", help="A variable that the client gives it; repeatable.")
    ] = None,
    write: Annotated[
        Path | None, typer.Option("--write", metavar="FILE", help="Add it to this file of a client.")
    ] = None,
    report: ReportOption = False,
    workspace: WorkspaceOption = None,
    policy: PolicyOption = None,
) -> None:
    """Add a server from a package, baked into an image."""
    from cloned_proxy.cli.commands.mcp.add import AddOptions, add_server

    options = AddOptions(
        name=name,
        npm=npm,
        pypi=pypi,
        args=tuple(args or ()),
        env=tuple(env or ()),
        write=write,
        report=report,
        workspace=workspace,
        policy=policy,
    )
    add_server(options)


@app.command("run")
def run(name: NameArgument, *, policy: PolicyOption = None, workspace: WorkspaceOption = None) -> None:
    """Run a server: what clients start."""
    from cloned_proxy.cli.commands.mcp.run import run_server

    raise typer.Exit(run_server(name, workspace=workspace, policy=policy))


@app.command("check")
def check(
    name: NameArgument,
    *,
    seconds: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", min=0.1, help="How long it may take to answer.")
    ] = 60.0,
    policy: PolicyOption = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Try a server: what it offers, how fast, what was refused."""
    from cloned_proxy.cli.commands.mcp.check import check_server

    raise typer.Exit(check_server(name, workspace=workspace, policy=policy, seconds=seconds, as_json=as_json))


@app.command("list")
def list_servers(*, workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """The servers of this workspace, and the files that start them."""
    from cloned_proxy.cli.commands.mcp.listing import print_servers

    print_servers(workspace, as_json=as_json)


@app.command("gate")
def gate(
    *,
    tool: Annotated[
        list[str] | None,
        typer.Option("--tool", metavar="TOOL", help="For whom it asks; repeatable. Default: every server here."),
    ] = None,
    workspace: WorkspaceOption = None,
) -> None:
    """An MCP server: the model asks why, and for access."""
    from cloned_proxy.cli.commands.mcp.gate import serve_gate

    serve_gate(tool or [], workspace=workspace)
