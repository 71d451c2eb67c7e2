"""Who made a container or a scratch directory, and whether that process is still there.

A runner that is killed cannot clean up. The next one does: it removes what belongs to dead processes of this machine,
and only that. The mark names the boot and the pid namespace too, so that a process in a container, with pids of its
own and the host's engine, never takes a living neighbour for dead.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cloned_proxy.runner.namespaces.netns import has_ended, start_time
from cloned_proxy.runner.values.errors import GoneError

if TYPE_CHECKING:
    from cloned_proxy.runner.docker.engine import Engine

_PARTS: Final = 4


def owner_id() -> str:
    """The mark of this process: boot, pid namespace, pid, start time."""
    pid = os.getpid()
    return f"{_here()}.{pid}.{start_time(pid)}"


def _here() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot}.{Path('/proc/self/ns/pid').stat().st_ino}"


def is_dead(owner: str) -> bool:
    """Whether the process that left this mark is certainly gone. Unknown marks are left alone."""
    parts = owner.split(".")
    if len(parts) != _PARTS or not parts[2].isdigit():
        return False
    if ".".join(parts[:2]) != _here():
        # After a reboot nothing of the old boot runs; another pid namespace of this boot may be alive.
        return parts[0] != _here().split(".")[0]
    pid = int(parts[2])
    try:
        return has_ended(pid) or str(start_time(pid)) != parts[3]
    except (OSError, ValueError, IndexError):
        return True


def process_of(owner: str) -> int | None:
    """The pid that an owner has or had; None for a mark that is not of this pid namespace."""
    parts = owner.split(".")
    if len(parts) != _PARTS or not parts[2].isdigit() or ".".join(parts[:2]) != _here():
        return None
    return int(parts[2])


def remove_leftovers(engine: Engine, run_directory: Path) -> int:
    """Removes containers and directories of dead owners; returns how many. Tools go before their holders."""
    removed = 0
    for container, owner in engine.owners():
        # Asked again behind the check: a slot that was lent may have been given back, and be somebody else's now.
        with contextlib.suppress(GoneError):
            if is_dead(owner) and engine.owner_of(container) == owner:
                engine.discard(container)
                removed += 1
    for directory in run_directory.glob("*.*.*.*") if run_directory.is_dir() else ():
        if is_dead(directory.name):
            shutil.rmtree(directory, ignore_errors=True)
            removed += 1
    return removed
