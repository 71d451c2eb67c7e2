"""The check of `doctor` that says whether clients of the running proxy have to wait, and for what."""

from __future__ import annotations

from cloned_proxy.cli.commands.doctor.checks import Check
from cloned_proxy.cli.place.live import live_proxy
from cloned_proxy.cli.show.waiting import against_waiting, waited_for
from cloned_proxy.store.workspaces.workspace import Workspace


def waiting_check(workspace: Workspace) -> Check | None:
    """None where nothing serves. Waiting refuses nobody, so it is no failure."""
    live = live_proxy(workspace)
    if live is None:
        return None
    if not live.waiting:
        return Check("waiting", "ok", "no client has waited within the last minute")
    return Check("waiting", "warn", waited_for(live.waiting), against_waiting(live.waiting))
