"""What every part of a process is made from."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from cloned_proxy.proxy.grants.workers import Worker, leads
from cloned_proxy.store.settings.config import Config
from cloned_proxy.store.workspaces.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Setup:
    """One process, before anything of it is there."""

    parts: AsyncExitStack
    """Takes the process apart, the newest part first: each part puts its own end here."""
    workspace: Workspace
    config: Config
    policy_file: Path
    clock: Callable[[], float]
    """Unix seconds."""
    uptime: Callable[[], float]
    """Seconds since boot."""
    worker: Worker | None
    """The place among several workers; None for the only process."""

    @property
    def leads(self) -> bool:
        return leads(self.worker)
