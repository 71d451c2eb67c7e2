"""What every endpoint works with."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cloned_proxy.control.feed import Feed
from cloned_proxy.control.record import Record
from cloned_proxy.store.workspaces.devices import Devices
from cloned_proxy.store.workspaces.workspace import Workspace


@dataclass(frozen=True, slots=True)
class ControlServices:
    """One for each control process."""

    workspace: Workspace
    policy_file: Path | None
    """What `serve --policy` said."""
    authorities: frozenset[str]
    """See `guard.authorities_of`."""
    cookie: str
    """The cookie's name. It holds the port, because cookies do not know ports and two workspaces must not log each
    other out."""
    devices: Devices
    record: Record
    feed: Feed
    proxy: str = ""
    """`host:port` of the host listener, as clients write it."""
    clock: Callable[[], float] = field(default=time.time)
