"""`audit`: whether anybody touched the log, or an export of it; and the export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cloned_proxy.cli.place.options import JsonOption, WorkspaceOption
from cloned_proxy.cli.show.errors import FAILED, say

app = typer.Typer(help="Check the log itself, and export it.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Check the log itself, and export it."""


@app.command("verify")
def verify(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="An export, instead of this workspace's log.", dir_okay=False)
    ] = None,
    *,
    key: Annotated[
        str | None, typer.Option("--key", metavar="KEY", help="Public key of the replica that exported it.")
    ] = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check the hash chain from end to end. Exit 1 and name the first broken entry."""
    from cloned_proxy.cli.show.errors import CommandError

    if file is not None:
        from cloned_proxy.cli.commands.log.audit_export import verify_export

        verify_export(file, key, as_json=as_json)
        return
    if key is not None:
        raise CommandError("--key is for an export; name its FILE as well")
    _verify_log(workspace, as_json=as_json)


def _verify_log(workspace: Path | None, *, as_json: bool) -> None:
    from cloned_proxy.cli.place.context import existing_workspace
    from cloned_proxy.cli.show.output import put, put_json
    from cloned_proxy.store.audit.audit_log import AuditLog

    with AuditLog(existing_workspace(workspace).state_db) as log:
        report = log.verify()
    if as_json:
        put_json(
            {
                "ok": report.holds,
                "entries": report.entries,
                "first_broken": report.broken,
                "problem": report.problem,
                "last_hash": report.last_hash,
            }
        )
    elif report.holds:
        put(f"ok  {report.entries} entries, the chain holds from end to end")
    if not report.holds:
        if not as_json:
            say(f"cloned-proxy: the log was changed: {report.problem}; keep it and look who could write it")
        raise typer.Exit(FAILED)


@app.command("export")
def export(
    *,
    since: Annotated[
        str | None, typer.Option("--since", metavar="DURATION", help="Such as 1d; everything without it.")
    ] = None,
    signed: Annotated[bool, typer.Option("--signed", help="With receipts, signed with this replica's key.")] = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Write the log to stdout, in a form that can be checked elsewhere."""
    from cloned_proxy.cli.commands.log.audit_export import write_export

    write_export(since, signed=signed, workspace=workspace)
