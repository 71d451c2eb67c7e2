"""A directory of this machine as a run sees it, looked through."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cloned_proxy.runner.project.changes import Marks
from cloned_proxy.runner.project.survey import Identity, Survey, look_through
from cloned_proxy.runner.values.errors import SandboxInputError

_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class Tree:
    """A directory of this machine, and where a run sees it."""

    source: Path
    targets: tuple[str, ...]
    read_only: bool
    survey: Survey
    marks: Marks = field(default_factory=Marks)
    """What the host acts upon, as it is before the run."""
    hidden: set[str] = field(default_factory=set)
    """What is masked, relative to `source`; workspaces are not all called so."""

    def seen_at(self, path: str) -> Iterator[str]:
        """The container's paths of something in it."""
        for target in self.targets:
            yield f"{target}/{path}" if path else target


def tree_of(source: Path, targets: tuple[str, ...], secret: frozenset[Identity], *, read_only: bool) -> Tree:
    """Looks it through. Raises SandboxInputError."""
    marks = Marks()
    survey = look_through(source, secrets=secret, visit=None if read_only else marks)
    return Tree(source, targets, read_only, survey, marks)


def identity_of(directory: Path) -> frozenset[Identity]:
    """What a directory is known by under any of its names; empty where it does not exist."""
    try:
        info = directory.stat()
    except FileNotFoundError:
        return frozenset()
    return frozenset({(info.st_dev, info.st_ino)})


def refuse_doors(tree: Tree) -> None:
    """Raises SandboxInputError for sockets and FIFOs."""
    found = tree.survey.doors
    if found:
        names = ", ".join(found[:_SHOWN]) + (f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")
        raise SandboxInputError(
            f"{tree.source} contains sockets or FIFOs, through which a tool would reach the host: {names}; "
            "move them out of it (a debugger, agent or database may have put them there)"
        )
