"""What the editing commands share: the edit service, the record of who and why, and what is said about it."""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Sequence
from pathlib import Path

import typer

from cloned_proxy.cli.context import rule_use
from cloned_proxy.cli.errors import FAILED, CommandError, say
from cloned_proxy.cli.output import iso_time, put
from cloned_proxy.policy.identity import valid_tool_id
from cloned_proxy.policy.url import split_port
from cloned_proxy.store.audit_log import AuditLog
from cloned_proxy.store.policy_edit import Action, Addition, EditResult, Entry, PolicyEditor
from cloned_proxy.store.workspace import Workspace
from cloned_proxy.telemetry.events import PolicyEvent


def add_entries(
    action: Action,
    entries: Sequence[Entry],
    *,
    tool: str | None,
    why: str,
    dry_run: bool,
    workspace: Path | None,
    policy_file: Path | None,
) -> None:
    """Adds or renews entries of one list and records it. Raises CommandError, PolicyError or StoreError."""
    _check_tool(tool)
    addition = Addition(tuple(entries), tool, action)
    for_whom = f" for {tool}" if tool else ""
    summary = f"{action} {', '.join(_written(entry) for entry in entries)}{for_whom}"
    apply_additions([addition], summary, why=why, dry_run=dry_run, workspace=workspace, policy_file=policy_file)


def apply_additions(
    additions: Sequence[Addition],
    summary: str,
    *,
    why: str,
    dry_run: bool,
    workspace: Path | None,
    policy_file: Path | None,
) -> None:
    """Several lists in one edit, or none. Raises as `add_entries`."""
    place = Workspace.find(workspace)
    if not dry_run:
        place.create()
    editor = PolicyEditor(place.policy_path(policy_file))
    result = editor.add(additions, used=rule_use(place).uses, dry_run=dry_run)
    _finish(place, result, summary, why=why, dry_run=dry_run)


def remove_hosts(
    hosts: Sequence[str],
    *,
    tool: str | None,
    why: str,
    dry_run: bool,
    workspace: Path | None,
    policy_file: Path | None,
) -> None:
    """Takes rules back and records it; exit 1 when one was not there. Raises as `add_entries`."""
    _check_tool(tool)
    place = Workspace.find(workspace)
    if not place.root.is_dir():
        raise CommandError(f"{place.root}: there is no workspace here; nothing to remove, or name it by --workspace")
    result = PolicyEditor(place.policy_path(policy_file)).remove(hosts_only(hosts), tool=tool, dry_run=dry_run)
    gone = [host for host in hosts if host not in result.missing]
    _finish(place, result, f"remove {' '.join(gone)}{f' for {tool}' if tool else ''}", why=why, dry_run=dry_run)
    if result.missing:
        where = f"tool {tool}" if tool else "the global rules (use --tool for a tool's own)"
        say(f"cloned-proxy: no rule for {', '.join(result.missing)} in {where}; `cloned-proxy list` shows them all")
        raise typer.Exit(FAILED)


def hosts_only(hosts: Sequence[str]) -> list[str]:
    """The hosts without brackets. Raises CommandError for one with a port: these commands cover every port."""
    names = []
    for text in hosts:
        try:
            host, port = split_port(text)
        except ValueError as error:
            raise CommandError(str(error)) from error
        if port is not None:
            raise CommandError(f"{text!r}: this covers every port of a host; write {host}")
        names.append(host)
    return names


def _written(entry: Entry) -> str:
    """All that the entry says, for the record: a narrow rule must not read there like a broad one."""
    host = f"[{entry.host}]" if ":" in entry.host else entry.host
    words = [":".join((host, *(str(port) for port in entry.ports))), ",".join(entry.methods), ",".join(entry.paths)]
    if entry.max_uses is not None:
        words.append(f"uses {entry.max_uses}")
    if entry.expires is not None:
        words.append(f"until {iso_time(entry.expires)}")
    return " ".join(filter(None, words))


def _check_tool(tool: str | None) -> None:
    if tool is not None and not valid_tool_id(tool):
        raise CommandError(f"{tool!r} is not a tool id; write one such as cloned.mcp.web.search@v1")


def _finish(place: Workspace, result: EditResult, summary: str, *, why: str, dry_run: bool) -> None:
    if dry_run:
        if result.diff:
            put(result.diff.rstrip("\n"))
        say("nothing written (--dry-run)")
        return
    if not result.changed:
        if not result.missing:
            say("nothing to change: the policy says so already")
        return
    with AuditLog(place.state_db) as log:
        log.append(PolicyEvent(time.time(), "edit", _actor(), summary, why, result.version))
    say(f"done: {summary} (policy version {result.version})")


def _actor() -> str:
    try:
        return f"cli:{pwd.getpwuid(os.getuid()).pw_name}"
    except KeyError:  # a uid without a passwd entry, as in many containers
        return f"cli:uid {os.getuid()}"
