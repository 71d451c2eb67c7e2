"""The masks over every workspace, socket and FIFO in what a run sees; what no mask can hide is refused."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Final

from cloned_proxy.runner.project.survey import Identity, Look, look_through
from cloned_proxy.runner.project.tree import Tree, identity_of, refuse_doors
from cloned_proxy.runner.values.errors import SandboxInputError
from cloned_proxy.runner.values.spec import Mount
from cloned_proxy.store.workspaces.workspace import DIRECTORY_NAME

_MAX_SECRETS: Final = 500


def refuse_secrets(directory: Path, workspace: Path) -> None:
    """Raises SandboxInputError for a directory that is shown as it is, and holds a workspace or a way to the host."""
    real = directory.resolve()
    found = look_through(real, secrets=identity_of(workspace))
    secrets = [*found.secret_directories, *found.secret_files, *found.secret_links]
    if secrets or DIRECTORY_NAME in real.parts:
        named = real / secrets[0] if secrets else real
        raise SandboxInputError(f"{named}: a workspace, whose keys nobody may see; use a directory without one")
    refuse_doors(Tree(real, (), True, found))


def masks_over(trees: Iterable[Tree]) -> tuple[list[str], list[str]]:
    """(directories, files) to mask, as the container's paths."""
    trees = tuple(trees)
    directories = {path for tree in trees for path in _hide(tree, tree.survey.secret_directories)}
    files = {path for tree in trees for path in _hide(tree, tree.survey.secret_files)}
    # A connect or a write would go through to whoever is behind, read-only mount or not.
    files |= {path for tree in trees for path in _hide(tree, tree.survey.doors)}
    for tree in trees:
        for link in tree.survey.secret_links:
            # Where a link leads on this machine is a workspace here, too, if some tree shows it.
            target = Path(os.path.realpath(tree.source / link))
            for other in trees:
                if other.source.is_relative_to(target):
                    raise SandboxInputError(
                        f"{tree.source / link} makes a workspace of {other.source}; remove the link"
                    )
                if not target.is_relative_to(other.source):
                    continue
                if target.exists():
                    there = _hide(other, [str(target.relative_to(other.source))])
                    (directories if target.is_dir() else files).update(there)
    covered = frozenset(directories)
    directories, files = ({path for path in paths if not _is_below(path, covered)} for paths in (directories, files))
    if len(directories | files) > _MAX_SECRETS:
        raise SandboxInputError(
            f"{len(directories | files)} workspaces, sockets and FIFOs lie in what would be shown: use a smaller one"
        )
    for path in directories | files:
        try:
            path.encode()
        except UnicodeEncodeError as error:
            raise SandboxInputError(
                f"{os.fsencode(path)!r} lies behind a name that is not UTF-8, and cannot be hidden: rename that"
            ) from error
    return sorted(directories), sorted(files)


def _is_below(path: str, directories: frozenset[str]) -> bool:
    """Whether it is hidden with one of them: in an empty directory nothing can be mounted upon."""
    return any(str(parent) in directories for parent in PurePosixPath(path).parents)


def _hide(tree: Tree, paths: Iterable[str]) -> Iterator[str]:
    for path in paths:
        tree.hidden.add(path)
        yield from tree.seen_at(path)


def refuse_other_names(trees: Sequence[Tree], files: Sequence[Mount], workspace: Path) -> None:
    """Refuses hard links to the files of a workspace: a mask hides a path, and such a file has another one."""
    places = {workspace.resolve()}
    places |= {tree.source / path for tree in trees for path in tree.survey.secret_directories}
    linked = {identity: path for place in places for identity, path in _linked_files(place)}
    if not linked:
        return
    found: list[tuple[str, Path]] = []
    for mount in files:
        info = Path(mount.source).stat()
        if (info.st_dev, info.st_ino) in linked:
            found.append((mount.source, linked[info.st_dev, info.st_ino]))
    inodes = {inode for _, inode in linked}
    for tree in trees:

        def compare(look: Look, tree: Tree = tree) -> None:
            if look.entry.inode() in inodes:
                info = look.entry.stat(follow_symlinks=False)
                if (info.st_dev, info.st_ino) in linked:
                    found.append((str(tree.source / look.path), linked[info.st_dev, info.st_ino]))

        look_through(tree.source, secrets=identity_of(workspace), visit=compare)
    if found:
        other, key = min(found)
        raise SandboxInputError(f"{other} is the same file as {key} (a hard link), which no tool may see; remove it")


def _linked_files(place: Path) -> Iterator[tuple[Identity, Path]]:
    """Files at the top of a workspace and in its `ca/` that have more than one name."""
    for directory in (place, place / "ca"):
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    info = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(info.st_mode) and info.st_nlink > 1:
                        yield (info.st_dev, info.st_ino), Path(entry.path)
        except OSError:
            continue  # not there, or closed to us, and so to a tool with our own user id
