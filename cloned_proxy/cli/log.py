"""`log`: decisions, requests, runs, probes and changes of the policy, as they were recorded, or as they happen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

import typer

from cloned_proxy.cli.options import JsonOption, ToolOption, WorkspaceOption

_POLL_SECONDS: Final = 0.1
_TYPES: Final[tuple[str, ...]] = ("decision", "policy", "approval", "run", "probe", "device", "ignore", "flow_end")
_TYPES_OF_TOOLS: Final[tuple[str, ...]] = ("decision", "approval", "run", "flow_end")
_CUTS: Final = ("cut:", "revoked:")
"""Causes of the ends of flows that are shown: by a person, or because a rule went. The others are no news."""
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
    """Print what is on record: decisions, requests, runs, edits; --json is one object a line."""
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
    types = _TYPES if tool is None else _TYPES_OF_TOOLS
    if denied:
        types = ("decision",)
    seen = 0
    with AuditLog(existing_workspace(workspace).state_db) as audit:
        try:
            while True:
                for entry in audit.entries(after=seen, types=types, denied=denied, tool=tool, since=start):
                    seen = entry.seq
                    if entry.body["type"] == "flow_end" and not entry.body["cause"].startswith(_CUTS):
                        continue
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
    from cloned_proxy.cli.output import iso_time, paint

    at = paint(iso_time(body["at"]), "dim")
    told = _TOLD.get(body["type"], _decision)
    return f"{at}  {told(body)}"


def _policy(body: dict[str, Any]) -> str:
    from cloned_proxy.cli.output import paint, visible

    why = f" ({body['why']})" if body["why"] else ""
    text = f"{body['actor']}: {body['summary']}{why}"
    return f"{paint('policy', 'bold')}  {body['action']}  {visible(text)}"


def _cut(body: dict[str, Any]) -> str:
    from cloned_proxy.cli.output import paint, visible

    passed = f"{body['bytes_up']} bytes up, {body['bytes_down']} down"
    text = f"{body['tool'] or '-'}  {body['decision']}  {body['cause']}"
    return f"{paint('cut', 'bold')}     {visible(text)}  {passed}"


def _approval(body: dict[str, Any]) -> str:
    from cloned_proxy.cli.output import paint, visible

    why = f" ({body['why']})" if body["why"] else ""
    text = " ".join(filter(None, (f"{body['actor']}:", body["approval"], body["summary"])))
    return f"{paint('request', 'bold')}  {body['action']}  {visible(text + why)}"


def _run(body: dict[str, Any]) -> str:
    from cloned_proxy.cli.output import paint, visible

    dry = "  (dry run)" if body["dry_run"] else ""
    reason = f"  {body['reason']}" if body["reason"] else ""
    command = f"  {body['command']}" if body.get("command") else ""  # entries of earlier versions have none
    text = f"{body['tool']}  run {body['run']}  {body['result']} in {body['seconds']:.2f} s{dry}{reason}{command}"
    return f"{paint('run   ', 'bold')}  {visible(text)}"


def _probe(body: dict[str, Any]) -> str:
    from cloned_proxy.cli.output import paint, visible

    found = paint("sealed", "green") if body["sealed"] else paint("NOT SEALED", "red")
    counts = f"{body['attempts']} attempts, {body['controls']} controls, {body['seconds']:.1f} s"
    return f"{paint('probe ', 'bold')}  {found}  {visible('; '.join((counts, *body['failures'])))}"


def _device(body: dict[str, Any]) -> str:
    from cloned_proxy.cli.output import paint, visible

    text = " ".join(filter(None, (f"{body['actor']}:", body["name"], body["device"])))
    return f"{paint('device', 'bold')}  {body['action']}  {visible(text)}"


def _ignore(body: dict[str, Any]) -> str:
    from cloned_proxy.cli.output import paint, visible

    text = f"{body['actor']}: {body['host']} for {body['tool'] or 'callers without a name'}"
    return f"{paint('ignore', 'bold')}  {body['action']}  {visible(text)}"


def _decision(body: dict[str, Any]) -> str:
    from cloned_proxy.cli.output import paint, visible
    from cloned_proxy.proxy.slot_protocol import DRY_RUN_MARK

    verdict = paint(f"{body['verdict']:<6}", _STYLES[body["verdict"]])
    host = f"[{body['host']}]" if ":" in body["host"] else body["host"]
    asked = (
        f"{body['method']} {host}:{body['port']}{body['path']}" if body["method"] else "(a head that cannot be read)"
    )
    reason = "" if body["verdict"] == "allow" else f"  {body['reason']}"
    dry = "  (dry run)" if (body["run"] or "").startswith(DRY_RUN_MARK) else ""
    return f"{verdict}  {visible(body['tool'] or '-')}  {visible(asked)}{reason}{dry}"


_TOLD: Final[Mapping[str, Callable[[dict[str, Any]], str]]] = {
    "policy": _policy,
    "approval": _approval,
    "run": _run,
    "probe": _probe,
    "device": _device,
    "ignore": _ignore,
    "flow_end": _cut,
}
"""How an entry of each type is told, other than a decision."""
