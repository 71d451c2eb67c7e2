"""What the commands say and do about presets."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import typer

from cloned_proxy.cli.show.errors import FAILED, say
from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.model.preset import Preset
from cloned_proxy.policy.reading.parse import PolicyError
from cloned_proxy.policy.reading.read_preset import preset_rules
from cloned_proxy.policy.terms.vocabulary import GLOBAL_SCOPE
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.policyfile.edit_service import EditService
from cloned_proxy.store.workspaces.presets import DERIVED
from cloned_proxy.store.workspaces.workspace import Workspace

if TYPE_CHECKING:
    from cloned_proxy.cli.editing.editing import EditOptions
    from cloned_proxy.store.policyfile.preset_edit import Pinned

_OLD_DAYS: Final = 365


def known_presets(workspace: Workspace) -> list[dict[str, Any]]:
    """One entry for each name; a broken preset is told with what is wrong, and hides no other."""
    shelf = workspace.presets
    found: list[dict[str, Any]] = []
    for name in sorted({*shelf.names(), *DERIVED}):
        if shelf.path_of(name) is None:
            about = "hosts from your own settings; `allow --preset` writes them down"
            found.append({"name": name, "from": "derived", "checked": None, "about": about, "hosts": None})
            continue
        place = "workspace" if shelf.is_local(name) else "shipped"
        try:
            preset = shelf.read(name)
        except (PolicyError, StoreError) as error:
            about = f"not valid: {'; '.join(str(error).splitlines())}"
            found.append({"name": name, "from": place, "checked": None, "about": about, "hosts": None})
            continue
        hosts = [str(rule.pattern) for rule in preset_rules(preset)]
        checked = preset.checked.isoformat()
        found.append({"name": name, "from": place, "checked": checked, "about": preset.about, "hosts": hosts})
    return found


def preset_data(workspace: Workspace, name: str) -> dict[str, Any]:
    """A preset with each of its rules. One that is to be derived and not written yet is derived now, and not written.

    Raises StoreError and PolicyError.
    """
    from cloned_proxy.cli.editing.describe import rule_data
    from cloned_proxy.store.policyfile.preset_edit import pinned

    shelf, place = workspace.presets, "workspace" if workspace.presets.is_local(name) else "shipped"
    if name in DERIVED and shelf.path_of(name) is None:
        shelf = shelf.with_pending({name: pinned(name, time.time()).text.encode()})
        place = "derived, not written yet"
    preset = shelf.read(name)
    kept = ("host", "ports", "methods", "paths", "protocols", "reason")
    rules = [{key: value for key, value in rule_data(rule).items() if key in kept} for rule in preset_rules(preset)]
    return {
        "name": name,
        "about": preset.about,
        "from": place,
        "file": str(path) if (path := workspace.presets.path_of(name)) is not None else None,
        "source": preset.source,
        "checked": preset.checked.isoformat(),
        "allow": rules,
        "quiet": [str(pattern) for pattern in preset.quiet],
    }


def preset_lines(told: dict[str, Any]) -> Iterator[str]:
    """For people: what it is, then a line for each rule with where it comes from."""
    from cloned_proxy.cli.show.output import visible

    yield visible(f"{told['name']}: {told['about']}")
    yield visible(f"from     {told['from']}{': ' + told['file'] if told['file'] else ''}")
    yield visible(f"source   {told['source']} (checked {told['checked']})")
    for rule in told["allow"]:
        ports = ",".join(map(str, rule["ports"]))
        words = [f"{rule['host']}:{ports}", ",".join(rule["methods"] or ()), ",".join(rule["paths"] or ())]
        reason = f"  # {rule['reason']}" if rule["reason"] else ""
        yield visible(f"allow    {' '.join(filter(None, words))}{reason}")
    for host in told["quiet"]:
        yield visible(f"quiet    {host}  # refused without an alarm")


def allow_presets(names: Sequence[str], *, tool: str | None, options: EditOptions) -> None:
    """Takes presets into use and says what they open. Raises CommandError, PolicyError or StoreError."""
    from cloned_proxy.cli.editing.editing import actor, check_tool, tell
    from cloned_proxy.cli.place.place import say_if_unserved, workspace_to_write
    from cloned_proxy.store.policyfile.preset_edit import use_presets

    check_tool(tool)
    place = workspace_to_write(options.workspace)
    service = options.service(place)
    for name in names:
        if name not in DERIVED:
            service.presets.read(name)  # its own error is clearer than that of the edit which would use it
    result, derived = use_presets(
        service,
        names,
        tool=tool,
        actor=actor(),
        why=options.why,
        now=time.time(),
        dry_run=options.dry_run,
        update_tests=options.update_tests,
    )
    for each in derived:
        tell_of(each)
    if not options.dry_run and not result.changed and derived:
        say(f"the policy uses {', '.join(names)} already; what is derived was looked up anew")
    else:
        tell(result, f"use {', '.join(names)}{f' for {tool}' if tool else ''}", dry_run=options.dry_run)
    say_if_unserved(place)


def tell_of(derived: Pinned) -> None:
    """Where the hosts of a derived preset come from."""
    for each in derived.found:
        say(f"preset {derived.name}: {each.host}:{each.port}, from {each.where}")


def remove_presets(names: Sequence[str], *, tool: str | None, options: EditOptions) -> None:
    """Takes presets out of use; exit 1 when one was not in use. Raises as `allow_presets`."""
    from cloned_proxy.cli.editing.editing import actor, check_tool, tell
    from cloned_proxy.cli.place.context import existing_workspace
    from cloned_proxy.cli.place.place import say_if_unserved
    from cloned_proxy.store.policyfile.preset_edit import drop_presets

    check_tool(tool)
    place = existing_workspace(options.workspace)
    result, missing = drop_presets(
        options.service(place),
        names,
        tool=tool,
        actor=actor(),
        why=options.why,
        dry_run=options.dry_run,
        update_tests=options.update_tests,
    )
    gone = [name for name in names if name not in missing]
    if gone:
        tell(result, f"no longer use {', '.join(gone)}{f' for {tool}' if tool else ''}", dry_run=options.dry_run)
    if missing:
        where = f"tool {tool}" if tool else "the global scope (use --tool for a tool's own)"
        say(f"cloned-proxy: {where} does not use {', '.join(missing)}")
        raise typer.Exit(FAILED)
    say_if_unserved(place)


def tell_of_presets(service: EditService, wanted: Sequence[str], tool: str | None = None) -> None:
    """After a removal that found nothing: which presets bring the rules in question, and what to do about it."""
    from cloned_proxy.store.policyfile.policy_file import load_policy

    try:
        policy = load_policy(service.path, time.time(), service.presets)
    except (PolicyError, StoreError):
        return
    scope = tool or GLOBAL_SCOPE
    told: set[tuple[str, str, str]] = set()
    for rule in policy.rules:
        named = rule.id in wanted or (str(rule.pattern) in wanted and rule.scope == scope)
        about = (str(rule.pattern), rule.scope, rule.preset)
        if rule.preset and named and about not in told:
            told.add(about)
            of_tool = "" if rule.scope == GLOBAL_SCOPE else f" --tool {rule.scope}"
            say(
                f"cloned-proxy: {rule.pattern} comes with the preset {rule.preset}: `cloned-proxy deny {rule.pattern}"
                f"{of_tool}`, or `cloned-proxy remove --preset {rule.preset}{of_tool}` for all of it"
            )


def warnings_about(policy: Policy, workspace: Workspace) -> list[str]:
    """What `policy check` says of presets in use: old ones, and derived ones that the client has moved away from."""
    from cloned_proxy.store.policyfile.preset_edit import drifted

    found: list[str] = []
    for name in sorted(policy.presets):
        preset = workspace.presets.read(name)
        if (age := _age_in_days(preset)) > _OLD_DAYS:
            found.append(
                f"preset {name} was checked {age} days ago ({preset.checked}); compare its hosts with {preset.source}"
            )
        try:
            new = drifted(workspace, name)
        except StoreError as error:
            found.append(str(error))
            continue
        if new:
            found.append(
                f"preset {name}: {preset.source.rpartition(' ')[2]} is set to use {', '.join(new)} now; "
                f"`cloned-proxy allow --preset {name}` takes that over"
            )
    return found


def _age_in_days(preset: Preset) -> int:
    from datetime import UTC, datetime

    return (datetime.now(UTC).date() - preset.checked).days
