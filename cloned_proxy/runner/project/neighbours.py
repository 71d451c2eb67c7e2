"""Other sandboxes that may write where this one is about to be shown something.

The engine mounts by path, and follows links on the way. Between the survey and the mount another tool could put a link
in the place of a directory, and have this sandbox shown whatever the link leads to. It can do that with every path of a
tree that it may write, but for those that are mount points in its own sandbox: these cannot be moved (rename(2)).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.project.place import SCRATCH
from cloned_proxy.runner.values.errors import SandboxInputError
from cloned_proxy.runner.values.spec import HOME, TOOL_LABEL, Mount, SandboxSpec

_ALIVE: Final = frozenset({"created", "running", "paused", "restarting"})


def check_neighbours(engine: Engine, spec: SandboxSpec, own: str) -> None:
    """Raises SandboxInputError when another tool could move what this one is shown. To be called before it starts.

    `own` is this sandbox's container. It has been created: of two that come at the same time one sees the other.
    """
    ours = (Mount(spec.scratch, SCRATCH, read_only=False), *spec.binds, *spec.mounts)
    for row in engine.labelled(TOOL_LABEL):
        if row["Id"] == own or row["State"] not in _ALIVE:
            continue
        theirs = _mounts(row)
        found = movable(ours, theirs)
        if not found and row["State"] == "created":
            found = movable(theirs, ours)  # it may not look again, and be shown its own after we have begun
        if found:
            raise SandboxInputError(
                f"{found} cannot be shown or protected safely now: {row['Labels'][TOOL_LABEL]} "
                f"({row['Names'][0].lstrip('/')}) is running and may put something else in its place; end that one "
                "first, or use a copy (`git worktree add`)"
            )


def movable(shown: Iterable[Mount], writer: Iterable[Mount]) -> str:
    """A source of `shown` that a sandbox with the mounts `writer` could put something else in the place of; or "".

    The directories of one call and kept homes lie in workspaces, which every sandbox has masked.
    """
    shown, writer = tuple(shown), tuple(writer)
    calls = tuple(mount.source for mount in shown if mount.target in (SCRATCH, HOME))
    fixed = {(mount.source, mount.target) for mount in writer}
    roots = [mount for mount in writer if not mount.read_only and mount.target not in (SCRATCH, HOME)]
    for source in sorted({mount.source for mount in shown}):
        if any(source == call or source.startswith(f"{call}/") for call in calls):
            continue
        for root in roots:
            below = source.removeprefix(f"{root.source}/")
            if below != source and (source, f"{root.target}/{below}") not in fixed:
                return source
    return ""


def _mounts(row: dict[str, Any]) -> tuple[Mount, ...]:
    return tuple(
        Mount(str(mount["Source"]), str(mount["Destination"]), read_only=not mount["RW"])
        for mount in row["Mounts"]
        if mount["Type"] == "bind"
    )
