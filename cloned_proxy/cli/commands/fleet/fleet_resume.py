"""`fleet resume`: leases with `max_uses` are given again, though the store has lost what it knew of their uses."""

from __future__ import annotations

import time
from typing import Annotated, Final

import typer

from cloned_proxy.cli.place.options import WorkspaceOption
from cloned_proxy.policy.terms.units import rounded_duration

_AHEAD_SECONDS: Final = 60.0


def resume(
    *,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it is signed.")],
    workspace: WorkspaceOption = None,
) -> None:
    """Count the uses of leases anew, after a store has lost them."""
    from cloned_proxy.cli.editing.editing import actor
    from cloned_proxy.cli.place.context import existing_workspace
    from cloned_proxy.cli.show.errors import say
    from cloned_proxy.cli.show.warnings import warnings_to_stderr
    from cloned_proxy.fleet.link.libraries import need_libraries

    need_libraries()
    from cloned_proxy.fleet.operating.resuming import resume_uses

    warnings_to_stderr()
    word = resume_uses(existing_workspace(workspace), by=actor(), reason=reason)
    say("uses are counted anew: each replica tells what it took, and in 10 seconds leases are given again")
    if (ahead := word.at - time.time()) > _AHEAD_SECONDS:
        say(f"it is dated {rounded_duration(ahead)} ahead, as the count before was by a clock that was wrong: replicas")
        say("follow none that is older; `cloned-proxy doctor` compares the clocks")
