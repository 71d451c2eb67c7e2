"""`verify`: tries to escape from a real sandbox, and says what came of each attempt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloned_proxy.cli.place.options import JsonOption, WorkspaceOption

if TYPE_CHECKING:
    from cloned_proxy.telemetry.events import ProbeEvent


def verify(
    *,
    as_json: JsonOption = False,
    watch: Annotated[
        str | None, typer.Option("--watch", metavar="INTERVAL", help="Again and again, such as every 60s.")
    ] = None,
    forwarder: Annotated[
        bool, typer.Option("--forwarder", help="Probe the variant for engines whose namespaces cannot be entered.")
    ] = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Try to escape from a real sandbox; exit 1 on any leak. Also 1 when a control shows that the probe is blind."""
    import time

    from cloned_proxy.cli.commands.sandbox.probe_report import probe_event, show
    from cloned_proxy.cli.editing.editing import actor
    from cloned_proxy.cli.place.arguments import typed
    from cloned_proxy.cli.show.errors import FAILED
    from cloned_proxy.cli.terminal.interruption import interruptible
    from cloned_proxy.policy.terms.units import parse_term
    from cloned_proxy.runner.probe.run import ProbeOptions, run_probe
    from cloned_proxy.telemetry.log import configure_logging

    configure_logging()
    options = ProbeOptions(enter_namespaces=False if forwarder else None)
    pause = None if watch is None else typed(parse_term, watch, "--watch")
    while True:
        with interruptible():
            report = run_probe(lambda _message: None, options)
        _put_on_record(probe_event(report.as_json(), actor()), workspace)
        show(report, as_json=as_json, one_line=pause is not None)
        if not report.sealed:
            raise typer.Exit(FAILED)
        if pause is None:
            return
        time.sleep(pause)


def _put_on_record(event: ProbeEvent, directory: Path | None) -> None:
    """Where the control UI finds it. A directory without a workspace gets none: probing writes nothing of its own."""
    from cloned_proxy.cli.show.errors import say
    from cloned_proxy.store.audit.audit_log import AuditLog
    from cloned_proxy.store.files.errors import StoreError
    from cloned_proxy.store.workspaces.workspace import Workspace

    place = Workspace.find(directory)
    if not place.root.is_dir():
        return
    try:
        place.check_owner()
        with AuditLog(place.state_db) as log:
            log.append(event)
    except StoreError as error:
        say(f"cloned-proxy: this outcome is not on record: {error}")
