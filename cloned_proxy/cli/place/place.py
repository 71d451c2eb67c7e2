"""Which workspace a command writes to: a second one must not come about by chance.

A second workspace that somebody made by standing in another directory looks like the first one and changes nothing:
its rules, credentials and codes are for a proxy that does not run.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

from cloned_proxy.cli.show.errors import CommandError, say
from cloned_proxy.cli.show.output import visible
from cloned_proxy.store.workspaces.serving import Serving, server_of, serving_now
from cloned_proxy.store.workspaces.workspace import Workspace

_NAMED: Final = 2
"""Proxies of other workspaces that a message names; the rest it counts."""


def workspace_to_write(directory: Path | None) -> Workspace:
    """The workspace, for commands that write; one that was named (`--workspace`, `CLONED_WORKSPACE`) is made.

    Where none is there and none was named, a person at a terminal is asked, and nobody else gets one. Raises
    CommandError, and StoreError for one that cannot be used.
    """
    workspace = Workspace.find(directory)
    if workspace.root.is_dir():
        workspace.check_owner()
        return workspace
    if directory is None and not os.environ.get("CLONED_WORKSPACE"):
        workspace = _agreed(workspace)
    workspace.create()
    return workspace


def policy_to_edit(workspace: Workspace, flag: Path | None) -> Path | None:
    """`--policy` as given. Raises CommandError where the proxy that serves this workspace follows another file."""
    serving = server_of(workspace.root)
    if flag is not None or os.environ.get("CLONED_POLICY") or serving is None:
        return flag
    path = workspace.policy_path()
    if os.path.realpath(path) == os.path.realpath(serving.policy):
        return flag
    raise CommandError(
        f"the proxy on {serving.proxy} serves this workspace by {serving.policy}, and {path} changes nothing there; "
        f"add `--policy {serving.policy}`, or name the other file in the same way"
    )


def say_if_unserved(workspace: Workspace) -> None:
    """After an edit: that it waits for a `serve` of this workspace, where another one is served meanwhile."""
    others = serving_now()
    if others and server_of(workspace.root) is None:
        say(f"note: no proxy serves {workspace.root} now; {_what_serves(others)}")


def nowhere(workspace: Workspace, serving: list[Serving]) -> str:
    """The message that there is no workspace: it names those that are served, and what to do."""
    where = f"{workspace.root}: there is no workspace here"
    if not serving:
        return f"{where}; make one with `cloned-proxy init`, or name one by --workspace DIR"
    return (
        f"{where}; {_what_serves(serving)}: add `--workspace {serving[0].workspace}`, "
        "or make one here with `cloned-proxy init`"
    )


def _agreed(workspace: Workspace) -> Workspace:
    """What a person at the terminal wants in place of a workspace that is not there. Raises CommandError."""
    import typer

    serving = serving_now()
    served = {server.workspace for server in serving}
    if not (sys.stdin.isatty() and sys.stderr.isatty()) or len(served) > 1:
        raise CommandError(nowhere(workspace, serving))
    if served:
        say(f"{workspace.root}: there is no workspace here; {_what_serves(serving)}")
        question, wanted = "Use that one?", Workspace(served.pop())
    else:
        question, wanted = visible(f"There is no workspace here. Make {workspace.root}?"), workspace
    if not typer.confirm(question, err=True):
        raise CommandError(nowhere(workspace, serving))
    return wanted


def beside_another(problem: str) -> str:
    """Who serves on the port that a message says is in use, and how to serve beside it; "" for a stranger."""
    for other in serving_now():
        if any(problem.startswith(f"{address} ") for address in (other.proxy, other.control, other.metrics)):
            command = "cloned-proxy serve --listen 127.0.0.1:0 --control 127.0.0.1:0 --metrics 127.0.0.1:0"
            return f"; {_what_serves([other])}, and `{command}` serves beside it, on free ports"
    return ""


def _what_serves(serving: list[Serving]) -> str:
    named = [f"the proxy on {server.proxy} serves {server.workspace}" for server in serving[:_NAMED]]
    if len(serving) > _NAMED:
        named.append(f"{len(serving) - _NAMED} more serve others")
    return ", and ".join(named)
