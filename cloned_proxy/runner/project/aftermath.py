"""When a run has ended: what it changed in every tree that it could write."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cloned_proxy.runner.project.changes import Change, GuardedKind, Letter, Marks, compare, kind_of
from cloned_proxy.runner.project.snapshot import FileChange, Spool, TreeSnapshot
from cloned_proxy.runner.project.survey import Look, Survey, Visit, look_through
from cloned_proxy.runner.project.tree import Tree
from cloned_proxy.runner.project.view import View
from cloned_proxy.runner.values.errors import SandboxInputError


@dataclass(frozen=True, slots=True)
class Aftermath:
    """What a run left in one tree. Paths are relative to `source`, in the tool's own words: not to be printed so."""

    source: Path
    noteworthy: tuple[tuple[Change, GuardedKind], ...] = ()
    """What this machine acts upon, later."""
    doors: tuple[str, ...] = ()
    """Sockets and FIFOs that were left: the next run is refused because of them."""
    files: tuple[FileChange, ...] | None = None
    """Every change, where that was asked for."""
    problem: str = ""
    """Why it could not be looked through; all else is empty then."""


type Report = Callable[[Aftermath], None]


@contextlib.contextmanager
def looking_back(view: View, report: Report | None, *, every_file: bool, spool: Path) -> Iterator[None]:
    """Around a run: reports on every writable tree at its end, whatever the end. Raises SandboxInputError before it.

    `every_file` also keeps what text files say before the run, in a nameless file in the directory `spool`.
    """
    if report is None:
        yield
        return
    with contextlib.ExitStack() as stack:
        trees: list[tuple[Tree, TreeSnapshot | None]] = []
        for tree in view.trees:
            snapshot = TreeSnapshot(stack.enter_context(Spool(spool))) if every_file else None
            if snapshot is not None:
                look_through(tree.source, secrets=view.secrets, visit=snapshot.keep)
            if snapshot is not None or not tree.read_only:
                trees.append((tree, snapshot))
        try:
            yield
        finally:
            for tree, snapshot in trees:
                report(_look_back(tree, snapshot, view))


def _look_back(tree: Tree, snapshot: TreeSnapshot | None, view: View) -> Aftermath:
    marks = Marks()
    try:
        survey = look_through(tree.source, secrets=view.secrets, visit=_both(marks, snapshot))
        files = None if snapshot is None else snapshot.changes()
    except SandboxInputError as error:
        return Aftermath(tree.source, problem=str(error))
    if tree.read_only:
        return Aftermath(tree.source, files=files)
    found = [(change, kind) for change in compare(tree.marks.stamps, marks.stamps) if (kind := kind_of(change.path))]
    found += _workspaces(tree.survey, survey)
    doors = tuple(sorted(set(survey.doors) - set(tree.survey.doors)))
    return Aftermath(tree.source, tuple(found), doors, files)


def _both(marks: Marks, snapshot: TreeSnapshot | None) -> Visit:
    if snapshot is None:
        return marks

    def visit(look: Look) -> None:
        marks(look)
        snapshot.see(look)

    return visit


def _workspaces(before: Survey, after: Survey) -> Iterator[tuple[Change, GuardedKind]]:
    for name in ("secret_directories", "secret_files", "secret_links"):
        for path in sorted(set(getattr(after, name)) - set(getattr(before, name))):
            yield Change(path, Letter.ADDED), GuardedKind.WORKSPACE
