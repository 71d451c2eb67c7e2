"""What the editing commands share: who edits, and what is said about it."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import typer

from cloned_proxy.cli.errors import FAILED, CommandError, say
from cloned_proxy.cli.output import put
from cloned_proxy.cli.presets import tell_of_presets
from cloned_proxy.policy.identity import valid_tool_id
from cloned_proxy.policy.url import split_port
from cloned_proxy.store.edit_service import EditService, removal_summary
from cloned_proxy.store.policy_edit import Action, Addition, EditResult, Entry
from cloned_proxy.store.workspace import Workspace

_RULE_ID: Final = re.compile(r"r-[0-9a-f]{10}")


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
    apply_additions([addition], str(addition), why=why, dry_run=dry_run, workspace=workspace, policy_file=policy_file)


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
    service = EditService(Workspace.find(workspace), policy_file)
    result = service.add(additions, actor=actor(), why=why, summary=summary, dry_run=dry_run)
    tell(result, summary, dry_run=dry_run)


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
    service = EditService(place, policy_file)
    if len(hosts) == 1 and _RULE_ID.fullmatch(hosts[0]):
        _remove_rule(service, hosts[0], why=why, dry_run=dry_run)
        return
    names = hosts_only(hosts)
    result = service.remove(names, tool=tool, actor=actor(), why=why, dry_run=dry_run)
    tell(result, removal_summary(names, tool, result), dry_run=dry_run)
    if result.missing:
        where = f"tool {tool}" if tool else "the global rules (use --tool for a tool's own)"
        say(f"cloned-proxy: no rule for {', '.join(result.missing)} in {where}; `cloned-proxy list` shows them all")
        tell_of_presets(service, result.missing, tool)
        raise typer.Exit(FAILED)


def _remove_rule(service: EditService, rule_id: str, *, why: str, dry_run: bool) -> None:
    result = service.remove_rule(rule_id, actor=actor(), why=why, dry_run=dry_run)
    tell(result, f"remove rule {rule_id}", dry_run=dry_run)
    if result.missing:
        say(f"cloned-proxy: no rule of the file has the id {rule_id}; `cloned-proxy list` shows them all")
        tell_of_presets(service, [rule_id])
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


def _check_tool(tool: str | None) -> None:
    if tool is not None and not valid_tool_id(tool):
        raise CommandError(f"{tool!r} is not a tool id; write one such as cloned.mcp.web.search@v1")


def tell(result: EditResult, summary: str, *, dry_run: bool) -> None:
    """Prints what came of an edit."""
    if dry_run:
        if result.diff:
            put(result.diff.rstrip("\n"))
        say("nothing written (--dry-run)")
    elif result.changed:
        say(f"done: {summary} (policy version {result.version})")
    elif not result.missing:
        say("nothing to change: the policy says so already")


def actor() -> str:
    """Who edits, for the record."""
    try:
        return f"cli:{pwd.getpwuid(os.getuid()).pw_name}"
    except KeyError:  # a uid without a passwd entry, as in many containers
        return f"cli:uid {os.getuid()}"
