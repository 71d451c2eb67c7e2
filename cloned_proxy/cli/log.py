"""`log`: decisions and changes of the policy, as they were recorded, or as they happen."""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer

from cloned_proxy.cli.options import JsonOption, ToolOption, WorkspaceOption

_POLL_SECONDS: Final = 0.1
_STYLES: Final = {"allow": "green", "report": "yellow", "deny": "red"}


def log(
    *,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with each new one, until interrupted.")] = False,
    denied: Annotated[bool, typer.Option("--denied", help="Only what was refused.")] = False,
    tool: ToolOption = None,
    since: Annotated[str | None, typer.Option("--since", metavar="DURATION", help="Such as 1h or 7d.")] = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print decisions and policy changes; --json is one object a line."""
    import time

    from cloned_proxy.cli.context import existing_workspace
    from cloned_proxy.cli.durations import parse_duration
    from cloned_proxy.cli.errors import CommandError
    from cloned_proxy.cli.output import put, put_json
    from cloned_proxy.store.audit_log import AuditLog

    try:
        start = time.time() - parse_duration(since) if since is not None else None
    except ValueError as error:
        raise CommandError(f"--since: {error}") from error
    types = ("decision",) if denied or tool is not None else ("decision", "policy", "approval")
    seen = 0
    with AuditLog(existing_workspace(workspace).state_db) as audit:
        try:
            while True:
                for entry in audit.entries(after=seen, types=types, denied=denied, tool=tool, since=start):
                    seen = entry.seq
                    if as_json:
                        put_json({"seq": entry.seq, **entry.body}, one_line=True)
                    else:
                        put(line(entry.body))
                if not follow:
                    return
                time.sleep(_POLL_SECONDS)
        except KeyboardInterrupt:  # the way to end `-f`
            return


def line(body: dict[str, Any]) -> str:
    """One entry for people. Every recorded text is made harmless for a terminal."""
    from cloned_proxy.cli.output import iso_time, paint, visible

    at = paint(iso_time(body["at"]), "dim")
    if body["type"] == "policy":
        why = f" ({body['why']})" if body["why"] else ""
        text = f"{body['actor']}: {body['summary']}{why}"
        return f"{at}  {paint('policy', 'bold')}  {body['action']}  {visible(text)}"
    if body["type"] == "approval":
        why = f" ({body['why']})" if body["why"] else ""
        text = f"{body['actor']}: {body['approval']} {body['summary']}{why}"
        return f"{at}  {paint('request', 'bold')}  {body['action']}  {visible(text)}"
    verdict = paint(f"{body['verdict']:<6}", _STYLES[body["verdict"]])
    host = f"[{body['host']}]" if ":" in body["host"] else body["host"]
    asked = (
        f"{body['method']} {host}:{body['port']}{body['path']}" if body["method"] else "(a head that cannot be read)"
    )
    reason = "" if body["verdict"] == "allow" else f"  {body['reason']}"
    return f"{at}  {verdict}  {visible(body['tool'] or '-')}  {visible(asked)}{reason}"
