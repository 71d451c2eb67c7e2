"""What one run sees of this machine's files: the project, the mounts that were asked for, and the masks over both."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Final

from cloned_proxy.runner.project.changes import stamp_of
from cloned_proxy.runner.project.guarded import guards_of
from cloned_proxy.runner.project.masks import masks_over, refuse_other_names
from cloned_proxy.runner.project.place import (
    SCRATCH,
    VISIBLE,
    ProjectAccess,
    check_own_path,
    project_of,
    working_directory,
)
from cloned_proxy.runner.project.survey import Identity
from cloned_proxy.runner.project.tree import Tree, identity_of, tree_of
from cloned_proxy.runner.project.worktree import linked_repository
from cloned_proxy.runner.values.errors import SandboxInputError
from cloned_proxy.runner.values.spec import HOME, Mount, check_mount
from cloned_proxy.store.workspaces.workspace import DIRECTORY_NAME

NOTHING: Final = "/dev/null"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectWish:
    """What somebody asked for of the project. As it is: read-only at /workspace."""

    access: ProjectAccess = ProjectAccess.READ_ONLY
    own_path: bool = False
    """The project is at its own path, too, and the command begins where the caller is."""
    workdir: str | None = None
    writable: tuple[str, ...] = ()
    """Paths that are guarded otherwise; relative to the project, or absolute."""
    as_caller: bool = False
    """The tool has the caller's user and group id (`--user me`)."""

    @property
    def at_own_path(self) -> bool:
        return self.own_path or self.workdir is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The container's paths, ready for its specification."""

    project: Path | None
    trees: tuple[Tree, ...]
    secrets: frozenset[Identity]
    """Directories that are workspaces, whatever they are called."""
    binds: tuple[Mount, ...]
    mounts: tuple[Mount, ...]
    """What was asked for by name, links on this machine resolved."""
    repositories: tuple[str, ...]
    """Directories with a `.git`."""
    masked: tuple[str, ...]
    """Directories over which an empty, read-only file system lies."""
    workdir: str


def view_of(
    wish: ProjectWish, workspace: Path, mounts: Sequence[Mount], here: Path, *, writable: Sequence[str] = ()
) -> View:
    """Looks everything through that the run will see. Raises SandboxInputError.

    `writable` are paths of the project that a setting names: those that are not there are passed over.
    """
    project = None if wish.access is ProjectAccess.NONE else project_of(workspace, here)
    if project is not None and project.is_relative_to(workspace.resolve()):
        raise SandboxInputError(f"{project} lies in the workspace {workspace.resolve()}; name another with --workspace")
    secret = identity_of(workspace)
    trees: list[Tree] = []
    if project is not None:
        trees.append(_project_tree(project, wish, secret))
    linked = linked_repository(project) if project is not None and wish.at_own_path else None
    if linked is not None:
        trees.append(tree_of(linked.common, (str(linked.common),), secret, read_only=True))
    binds = [Mount(str(tree.source), target, tree.read_only) for tree in trees for target in tree.targets]
    named = [_resolved(mount, workspace, project if wish.at_own_path else None) for mount in mounts]
    trees += [
        tree_of(source, (mount.target,), secret, read_only=mount.read_only)
        for mount in named
        if (source := Path(mount.source)).is_dir()
    ]
    refuse_other_names(trees, named, workspace)
    directories, files = masks_over(trees)
    for path in wish.writable:
        if all(tree.read_only or _within(tree.source, path, project) is None for tree in trees):
            raise SandboxInputError(f"--writable {path}: not in a project that may be written; add `--project rw`")
    guards = [guard for tree in trees for guard in _guards(tree, wish, project, writable)]
    if linked is not None and wish.access is ProjectAccess.READ_WRITE:
        guards += linked.writable()
    workdir = VISIBLE
    if wish.at_own_path or project is None:
        inside = (VISIBLE, SCRATCH, HOME, *(mount.target for mount in mounts))
        workdir = working_directory(wish.workdir, here, project, inside)
    return View(
        project=project,
        trees=tuple(trees),
        secrets=secret,
        binds=(*binds, *guards, *(Mount(NOTHING, path) for path in files)),
        mounts=tuple(named),
        repositories=tuple(
            path for tree in trees for repository in tree.survey.repositories for path in tree.seen_at(repository)
        ),
        masked=tuple(directories),
        workdir=workdir,
    )


def check_shown(mount: Mount, workspace: Path) -> None:
    """Raises SandboxInputError unless a tool of this workspace could be shown the mount."""
    view_of(ProjectWish(access=ProjectAccess.NONE), workspace, (mount,), Path("/"))


def _project_tree(project: Path, wish: ProjectWish, secret: frozenset[Identity]) -> Tree:
    targets = [VISIBLE]
    if wish.at_own_path and str(project) != VISIBLE:
        check_own_path(project)
        targets.append(str(project))
    return tree_of(project, tuple(targets), secret, read_only=wish.access is not ProjectAccess.READ_WRITE)


def _resolved(mount: Mount, workspace: Path, project: Path | None) -> Mount:
    """The mount, checked. Raises SandboxInputError for a source or target that cannot be."""
    check_mount(mount)
    target = PurePosixPath(os.path.normpath(mount.target))
    if project is not None and (target.is_relative_to(project) or project.is_relative_to(target)):
        raise SandboxInputError(f"--mount …:{mount.target}: the project {project} is there; use /mnt/<name>")
    source = Path(mount.source)
    if not source.exists():
        raise SandboxInputError(f"--mount {mount.source}: does not exist on this machine")
    real = source.resolve()
    if DIRECTORY_NAME in real.parts or real.is_relative_to(workspace.resolve()):
        raise SandboxInputError(f"--mount {mount.source}: it lies in a workspace, whose keys no tool may see")
    if not real.is_dir() and not real.is_file():
        raise SandboxInputError(f"--mount {mount.source}: neither a file nor a directory; sockets and devices stay out")
    return replace(mount, source=str(real))


def _guards(tree: Tree, wish: ProjectWish, project: Path | None, settings: Sequence[str]) -> Iterator[Mount]:
    """The mounts that keep a writable tree's own from being changed. Raises SandboxInputError."""
    if tree.read_only:
        return
    asked = {_within(tree.source, path, project) for path in wish.writable}
    set_once = {path for text in settings if (path := _within(tree.source, text, project)) is not None}
    named = {path for path in asked if path is not None} | {path for path in set_once if (tree.source / path).exists()}
    guards = guards_of(tree.source, tree.survey.repositories, tree.hidden, named)
    tree.marks.stamps.update((path, stamp_of((tree.source / path).lstat())) for path in guards.made)
    for target in tree.targets:
        yield from guards.mounts(tree.source, target)


def _within(root: Path, text: str, project: Path | None) -> str | None:
    """The path relative to `root`, not following links; None for one that is not in it."""
    path = PurePosixPath(os.path.normpath((project or root) / text))
    if DIRECTORY_NAME in path.parts:
        raise SandboxInputError(f"--writable {text}: no tool writes a workspace")
    if path == PurePosixPath(root):
        raise SandboxInputError(f"--writable {text}: name what may be written in {root}, such as .vscode")
    return str(path.relative_to(root)) if path.is_relative_to(root) else None
