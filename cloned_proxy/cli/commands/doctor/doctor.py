"""`doctor`: what could be wrong on this machine, each with its fix."""

from __future__ import annotations

from typing import Final

import typer

from cloned_proxy.cli.place.options import JsonOption, PolicyOption, WorkspaceOption
from cloned_proxy.cli.show.errors import FAILED

_STYLES: Final = {"ok": "green", "warn": "yellow", "fail": "red"}


def doctor(*, workspace: WorkspaceOption = None, policy: PolicyOption = None, as_json: JsonOption = False) -> None:
    """Check this machine; exit 1 on what stops the proxy."""
    from cloned_proxy.cli.commands.doctor.checks import configured_images, configured_names, run_checks
    from cloned_proxy.cli.commands.doctor.engine_checks import engine_checks
    from cloned_proxy.cli.commands.doctor.fleet_checks import fleet_checks
    from cloned_proxy.cli.commands.doctor.git_checks import git_check
    from cloned_proxy.cli.commands.doctor.registry_checks import registry_check
    from cloned_proxy.cli.commands.doctor.waiting_check import waiting_check
    from cloned_proxy.cli.show.output import paint, put_json, visible
    from cloned_proxy.cli.show.tables import put_indented
    from cloned_proxy.cli.show.warnings import warnings_to_stderr
    from cloned_proxy.program_name import in_this_shell
    from cloned_proxy.store.workspaces.workspace import Workspace

    warnings_to_stderr()
    checks = run_checks(workspace, policy)
    place = Workspace.find(workspace)
    if place.root.is_dir() and (found := waiting_check(place)) is not None:
        checks.append(found)
    if place.root.is_dir() and (found := git_check(place)) is not None:
        checks.append(found)
    if place.root.is_dir() and (found := registry_check(place, policy)) is not None:
        checks.append(found)
    if place.root.is_dir():
        checks += fleet_checks(place, policy)
    checks += engine_checks(configured_images(place), configured_names(place))
    failed = any(check.status == "fail" for check in checks)
    if as_json:
        put_json(
            {
                "ok": not failed,
                "checks": [{"name": c.name, "status": c.status, "detail": c.detail, "fix": c.fix} for c in checks],
            }
        )
    else:
        for check in checks:
            status = paint(f"{check.status:<4}", _STYLES[check.status])
            put_indented(f"{status}  {check.name:<12}  ", visible(check.detail), margin=20)
            if check.fix:
                put_indented(f"{'':<20}fix: ", visible(in_this_shell(check.fix)), margin=25)
    if failed:
        raise typer.Exit(FAILED)
