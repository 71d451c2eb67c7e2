"""`audit verify`: whether anybody touched the log."""

from __future__ import annotations

import typer

from cloned_proxy.cli.errors import FAILED, say
from cloned_proxy.cli.options import JsonOption, WorkspaceOption

app = typer.Typer(help="Check the log itself.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Check the log itself."""


@app.command("verify")
def verify(*, workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """Check the hash chain from end to end. Exit 1 and name the first broken entry."""
    from cloned_proxy.cli.context import existing_workspace
    from cloned_proxy.cli.output import put, put_json
    from cloned_proxy.store.audit_log import AuditLog

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
