"""`fleet init|publish|rollback|status|rotate`: one signed policy for many proxies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cloned_proxy.cli.commands.fleet import fleet_resume
from cloned_proxy.cli.place.options import JsonOption, WorkspaceOption

app = typer.Typer(help="One signed policy for many proxies.", no_args_is_help=True, rich_markup_mode=None)

_ReasonOption = Annotated[str, typer.Option("--reason", help="Why; it is signed, and shown by `fleet status`.")]
_WaitOption = Annotated[float, typer.Option("--wait", min=0, max=600, help="Seconds to wait for the replicas.")]


@app.command("init")
def init(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the fleet, such as acme.")],
    *,
    store: Annotated[
        str | None, typer.Option("--store", metavar="URL", help="redis://HOST:PORT, rediss://… or unix:///SOCKET.")
    ] = None,
    key: Annotated[str, typer.Option("--key", help="Where the signing key is kept: file or keyring.")] = "file",
    workspace: WorkspaceOption = None,
) -> None:
    """Make the signing key; show what replicas need."""
    from cloned_proxy.cli.commands.fleet.fleet_work import make_fleet

    make_fleet(workspace, name, store, key)


@app.command("publish")
def publish(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="Policy to publish; default: that of the workspace.")
    ] = None,
    *,
    reason: _ReasonOption,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="FILE", help="Write the envelope to a file, for git or a ConfigMap."),
    ] = None,
    new_epoch: Annotated[
        bool, typer.Option("--new-epoch", help="Begin the numbers anew, above all that is known: after lost data.")
    ] = False,
    wait: _WaitOption = 5.0,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check, sign and publish a policy; count who has it."""
    from cloned_proxy.cli.commands.fleet.fleet_work import publish_file

    publish_file(workspace, file, reason, output, new_epoch=new_epoch, wait=wait, as_json=as_json)


@app.command("rollback")
def rollback(
    version: Annotated[str, typer.Argument(metavar="VERSION", help="EPOCH.VERSION, or VERSION of the first epoch.")],
    *,
    reason: _ReasonOption,
    wait: _WaitOption = 5.0,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Publish an old version again, under a new number."""
    from cloned_proxy.cli.commands.fleet.fleet_work import roll_back

    roll_back(workspace, version, reason, wait=wait, as_json=as_json)


@app.command("status")
def status(
    *,
    watch: Annotated[bool, typer.Option("--watch", help="Again each second, until Ctrl-C.")] = False,
    history: Annotated[bool, typer.Option("--history", help="The versions that `rollback` can go back to.")] = False,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what is published, and every replica."""
    from cloned_proxy.cli.commands.fleet.fleet_status import show_status

    show_status(workspace, watch=watch, history=history, as_json=as_json)


@app.command("rotate")
def rotate(
    *,
    finish: Annotated[bool, typer.Option("--finish", help="Sign with the new key alone from now on.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="With --finish: although a replica does not trust the new key.")
    ] = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Replace the signing key, in two steps."""
    from cloned_proxy.cli.commands.fleet.fleet_work import rotate_key

    rotate_key(workspace, finish=finish, force=force)


app.command("resume")(fleet_resume.resume)
