"""What the editing commands share: who edits, and what is said about it."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import typer

from cloned_proxy.cli.editing.presets import tell_of_presets
from cloned_proxy.cli.place.arguments import typed
from cloned_proxy.cli.place.context import existing_workspace
from cloned_proxy.cli.place.place import policy_to_edit, say_if_unserved, workspace_to_write
from cloned_proxy.cli.show.errors import FAILED, CommandError, say
from cloned_proxy.cli.show.output import put
from cloned_proxy.policy.callers.tool_id import tool_id
from cloned_proxy.policy.terms.host_port import split_port
from cloned_proxy.store.policyfile.edit_service import EditService, removal_summary
from cloned_proxy.store.policyfile.policy_edit import EditResult
from cloned_proxy.store.policyfile.policy_entry import Action, Addition, Entry
from cloned_proxy.store.workspaces.workspace import Workspace

_RULE_ID: Final = re.compile(r"r-[0-9a-f]{10}")


@dataclass(frozen=True, slots=True)
class EditOptions:
    """What the editing commands take beside what they edit."""

    workspace: Path | None
    policy_file: Path | None
    why: str = ""
    dry_run: bool = False
    update_tests: bool = False

    def service(self, place: Workspace) -> EditService:
        """Raises CommandError where the edit would change nothing for the proxy that runs."""
        return EditService(place, policy_to_edit(place, self.policy_file))

    def add(self, service: EditService, additions: Sequence[Addition], summary: str) -> EditResult:
        """Adds or renews entries as the options say. Raises PolicyError or StoreError."""
        return service.add(
            additions,
            actor=actor(),
            why=self.why,
            summary=summary,
            dry_run=self.dry_run,
            update_tests=self.update_tests,
        )


def add_entries(action: Action, entries: Sequence[Entry], *, tool: str | None, options: EditOptions) -> Workspace:
    """Adds or renews entries of one list and records it. Raises CommandError, PolicyError or StoreError."""
    check_tool(tool)
    addition = Addition(tuple(entries), tool, action)
    return apply_additions([addition], str(addition), options)


def apply_additions(additions: Sequence[Addition], summary: str, options: EditOptions) -> Workspace:
    """Several lists in one edit, or none; the workspace whose policy it was. Raises as `add_entries`."""
    place = workspace_to_write(options.workspace)
    result = options.add(options.service(place), additions, summary)
    tell(result, summary, dry_run=options.dry_run)
    say_if_unserved(place)
    return place


def remove_hosts(hosts: Sequence[str], *, tool: str | None, options: EditOptions) -> None:
    """Takes rules back and records it; exit 1 when one was not there. Raises as `add_entries`."""
    check_tool(tool)
    place = existing_workspace(options.workspace)
    service = options.service(place)
    asked: dict[str, Any] = {
        "actor": actor(), "why": options.why, "dry_run": options.dry_run, "update_tests": options.update_tests,
    }  # fmt: skip
    if len(hosts) == 1 and _RULE_ID.fullmatch(hosts[0]):
        result = service.remove_rule(hosts[0], **asked)
        told, missing = f"remove rule {hosts[0]}", f"no rule has the id {hosts[0]}"
    else:
        names = hosts_only(hosts)
        result = service.remove(names, tool=tool, **asked)
        where = f"tool {tool}" if tool else "the global rules (use --tool for a tool's own)"
        told, missing = removal_summary(names, tool, result), f"no rule for {', '.join(result.missing)} in {where}"
    tell(result, told, dry_run=options.dry_run)
    if result.missing:
        say(f"cloned-proxy: {missing}; `cloned-proxy list` shows them all")
        tell_of_presets(service, result.missing, tool)
        raise typer.Exit(FAILED)
    say_if_unserved(place)


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


def check_tool(tool: str | None) -> None:
    """Raises CommandError for what can be no tool's id."""
    if tool is not None:
        typed(tool_id, tool)


def tell(result: EditResult, summary: str, *, dry_run: bool) -> None:
    """Prints what came of an edit."""
    if dry_run:
        if result.diff:
            put(result.diff.rstrip("\n"))
        say("nothing written (--dry-run)")
    elif result.changed:
        say(f"done: {summary} (policy version {result.version})")
        for test in result.tests:
            say(f"no longer tested: {test}")
    elif not result.missing:
        say("nothing to change: the policy says so already")


def actor() -> str:
    """Who edits, for the record."""
    try:
        return f"cli:{pwd.getpwuid(os.getuid()).pw_name}"
    except KeyError:  # a uid without a passwd entry, as in many containers
        return f"cli:uid {os.getuid()}"
