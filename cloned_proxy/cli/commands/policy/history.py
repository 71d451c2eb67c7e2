"""`policy history`, `policy show`, `policy restore`: earlier versions, and the way back to one."""

from __future__ import annotations

from typing import Annotated

import typer

from cloned_proxy.cli.place.options import DryRunOption, JsonOption, PolicyOption, UpdateTestsOption, WorkspaceOption

VersionArgument = Annotated[str, typer.Argument(metavar="VERSION", help="As `policy history` prints it.")]


def history(
    *,
    workspace: WorkspaceOption = None,
    policy: PolicyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the versions that came into force, the newest first."""
    from dataclasses import asdict

    from cloned_proxy.cli.place.context import existing_workspace
    from cloned_proxy.cli.show.errors import say
    from cloned_proxy.cli.show.output import iso_time, put_json, short_path
    from cloned_proxy.cli.show.tables import ago, show_table
    from cloned_proxy.store.policyfile.edit_service import EditService

    versions = EditService(existing_workspace(workspace), policy).history()
    if as_json:
        put_json([{**asdict(version), "at": iso_time(version.at)} for version in versions])
        return
    if not versions:
        say("no version is on record; `cloned-proxy serve` records the first one")
        return
    rows = [(each.version, ago(each.at), each.actor, short_path(each.summary), each.why or "-") for each in versions]
    show_table(rows, ("VERSION", "SINCE", "WHO", "WHAT", "WHY"))


def show(
    version: VersionArgument,
    *,
    diff: Annotated[bool, typer.Option("--diff", help="Only what it changed.")] = False,
    workspace: WorkspaceOption = None,
    policy: PolicyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print an earlier version whole, or what it changed."""
    from cloned_proxy.cli.place.context import existing_workspace
    from cloned_proxy.cli.show.output import put, put_json
    from cloned_proxy.store.policyfile.edit_service import EditService

    service = EditService(existing_workspace(workspace), policy)
    if as_json:
        put_json({"version": version, "text": service.text_of(version), "diff": service.diff(version)})
        return
    put((service.diff(version) if diff else service.text_of(version)).rstrip("\n"))


def restore(
    version: VersionArgument,
    *,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; goes into the log.")] = "",
    update_tests: UpdateTestsOption = False,
    dry_run: DryRunOption = False,
    workspace: WorkspaceOption = None,
    policy: PolicyOption = None,
) -> None:
    """Put an earlier version back; it acts on a running proxy at once."""
    from cloned_proxy.cli.editing.editing import actor, tell
    from cloned_proxy.cli.place.context import existing_workspace
    from cloned_proxy.cli.place.place import policy_to_edit
    from cloned_proxy.store.policyfile.edit_service import EditService

    place = existing_workspace(workspace)
    service = EditService(place, policy_to_edit(place, policy))
    result = service.restore(version, actor=actor(), why=reason, dry_run=dry_run, update_tests=update_tests)
    tell(result, f"restore version {version}", dry_run=dry_run)
