"""What the command line says over the workspace's files, for one process that serves or for several workers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import structlog

from cloned_proxy.proxy.plane.choice import ONLY_PYTHON, PlaneChoice
from cloned_proxy.proxy.serving.probing import IsolationProbe
from cloned_proxy.proxy.slots.holders import RunCaretaker
from cloned_proxy.proxy.slots.standing_slots import StandingSlot
from cloned_proxy.store.settings.config import Config
from cloned_proxy.store.workspaces.shipped_policy import create_policy
from cloned_proxy.store.workspaces.workspace import Workspace

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """Addresses are (host, port); port 0 takes a free one."""

    listen: tuple[str, int] = ("127.0.0.1", 8081)
    metrics: tuple[str, int] | None = ("127.0.0.1", 8083)
    policy_file: Path | None = None
    slots: tuple[StandingSlot, ...] = ()
    log_format: str = "console"
    """Format of the messages of the processes that are started beside this one."""
    control: tuple[str, int] | None = None
    """Where the control process listens, if there is one: nobody is let through to it."""
    probe: IsolationProbe | None = None
    """How an escape probe is made."""
    standby: bool = False
    """Serves while somebody holds it, and sandboxes alone: `runner.slots.standby` starts such a one."""
    caretaker: RunCaretaker | None = None
    plane: PlaneChoice = ONLY_PYTHON
    """What serves the common case."""


def find_policy(workspace: Workspace, config: Config, asked_for: Path | None) -> Path:
    """The policy file to follow. A workspace without one gets the shipped default; a broken one is never replaced."""
    if config.fleet is not None:  # of this machine alone, and there only where somebody wrote it
        return asked_for or workspace.own_policy_path(config)
    path = workspace.policy_path(asked_for, config=config)
    if path == workspace.policy_file and create_policy(path):
        _log.info("no policy in the workspace: the shipped default was copied there", path=str(path))
    return path
