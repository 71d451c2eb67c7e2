"""What the host will later run or trust: read-only in a project that a tool may write.

A program that acts by itself when somebody enters, opens or commits in a directory (git, an editor, direnv, an agent)
would carry out what a tool wrote there, outside of the sandbox. A read-only mount keeps its file as it is. Renaming a
directory *above* a mount is allowed by the kernel, so every directory from the tree's root down to such a mount is a
mount point of its own, too: that one cannot be renamed or removed (EBUSY, rename(2)).
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from cloned_proxy.runner.values.errors import SandboxInputError
from cloned_proxy.runner.values.spec import Mount

TRUSTED: Final = frozenset({
    ".aider.conf.yml", ".claude", ".codex", ".continue", ".cursor", ".devcontainer", ".devcontainer.json",
    ".dir-locals.el", ".envrc", ".exrc", ".fleet", ".gemini", ".githooks", ".husky", ".idea", ".lvimrc", ".mcp.json",
    ".nvim.lua", ".nvimrc", ".opencode", ".vimrc", ".vs", ".vscode", ".windsurf", ".zed", "opencode.json",
})  # fmt: skip
"""Names that editors, shells and agents look for in a directory, and act upon without being asked."""
GIT_PARTS: Final = ("hooks", "config", "config.worktree", "commondir", "gitdir")
"""In a git directory: what runs, what says what runs, and what makes git look for both elsewhere
(gitrepository-layout(5))."""
_MAX_MOUNTS: Final = 400
_MAX_CONFIG: Final = 1024 * 1024
_MODULE_DEPTH: Final = 12
_RUNS: Final = frozenset({
    "hookspath", "path", "fsmonitor", "sshcommand", "pager", "editor", "external", "textconv", "clean", "smudge",
    "process", "driver", "command", "cmd", "program", "helper", "askpass",
})  # fmt: skip
"""Keys of git-config(1) that name something to run or to read settings from. Every alias does, too."""
_SETTING: Final = re.compile(
    r"\s*(?:\[\s*(?P<section>[A-Za-z0-9.-]+)[^\]]*\]\s*)?(?:(?P<key>[A-Za-z][A-Za-z0-9-]*)\s*=\s*(?P<value>.*))?"
)

_QUOTES: Final = str.maketrans("\"'\\", "   ")


@dataclass(frozen=True, slots=True)
class Guards:
    """Paths relative to a tree, each sorted."""

    read_only: tuple[str, ...]
    pinned: tuple[str, ...]
    """Directories that stay where they are, writable."""
    writable: tuple[str, ...]
    """What was named to be written although it lies in something read-only."""
    made: tuple[str, ...]
    """What had to be made, because only what is there can be read-only."""

    def mounts(self, source: Path, target: str) -> Iterator[Mount]:
        """The mounts of one place where the tree is seen."""
        for paths, read_only in ((self.pinned, False), (self.read_only, True), (self.writable, False)):
            for path in paths:
                yield Mount(str(source / path), f"{target}/{path}", read_only)


def guards_of(root: Path, repositories: Iterable[str], masked: Iterable[str], writable: Iterable[str]) -> Guards:
    """The guards of a tree whose repositories and masked paths are known. Raises SandboxInputError.

    `writable` are paths of the tree that somebody named: they, and what is below them, are not guarded.
    """
    named = tuple(writable)
    made = tuple(path for place in repositories for path in _make_missing(root, place))
    places = {"", *repositories}
    found = {path for place in places for path in _trusted(root, place)}
    found |= {path for place in repositories for path in _git(root, place)}
    hidden = tuple(masked)
    kept = {path for path in found if not any(_is_in(path, name) for name in (*named, *hidden))}
    if len(kept) > _MAX_MOUNTS:
        raise SandboxInputError(
            f"{root}: {len(kept)} files and directories in {len(places)} places would have to be protected; "
            "use a smaller project, or `--project ro`"
        )
    for path in sorted(kept):
        if _is_by_link(root, path):
            raise SandboxInputError(
                f"{root / path} is a link, or lies behind one, and cannot be kept from being replaced: put there what "
                f"it leads to, or let it be written: --writable {path}"
            )
    kept = {path for path in kept if not any(path != other and _is_in(path, other) for other in kept)}
    opened = tuple(name for name in named if any(_is_in(name, path) for path in kept))
    for name in opened:
        if _is_by_link(root, name):
            raise SandboxInputError(f"--writable {name}: a link, or behind one: it may lead out of {root}; remove it")
        if not (root / name).exists():
            raise SandboxInputError(
                f"--writable {name}: does not exist, and what is around it is read-only; make it, or name its directory"
            )
    pinned = {parent for path in (*kept, *hidden) for parent in _above(path)}
    pinned |= {path for place in repositories if (path := _join(place, ".git")) and _is_directory(root / path)}
    pinned = {path for path in pinned - kept if not any(_is_in(path, name) for name in hidden)}
    return Guards(*(tuple(sorted(paths)) for paths in (kept, pinned, opened, made)))


def _trusted(root: Path, place: str) -> Iterator[str]:
    for name in TRUSTED:
        path = _join(place, name)
        if _is_there(root / path):
            yield path


def _git(root: Path, place: str) -> Iterator[str]:
    """What is guarded of one repository: in its `.git`, or the file of that name, and what its settings run."""
    dot_git = _join(place, ".git")
    if not _is_directory(root / dot_git):
        if _is_there(root / dot_git):
            yield dot_git
        return
    for directory in _git_directories(root, dot_git):
        for part in GIT_PARTS:
            path = f"{directory}/{part}"
            if _is_there(root / path):
                yield path
        yield from _run_by_config(root, place, f"{directory}/config")


def _make_missing(root: Path, place: str) -> Iterator[str]:
    """Makes the `hooks` and the `config` that `git init` would have made, in itself and its submodules."""
    dot_git = _join(place, ".git")
    if not _is_directory(root / dot_git):
        return
    for directory in _git_directories(root, dot_git):
        path = root / directory
        if not (path / "HEAD").exists() or (path / "commondir").exists():
            continue  # not a git directory, or that of a linked worktree, which has neither
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            yield from (f"{directory}/{name}" for name in _make(descriptor))
        finally:
            os.close(descriptor)


def _make(git_directory: int) -> Iterator[str]:
    with contextlib.suppress(FileExistsError, PermissionError):  # where we may not, a tool as ourselves may not either
        os.mkdir("hooks", 0o755, dir_fd=git_directory)
        _give("hooks", git_directory)
        yield "hooks"
    with contextlib.suppress(FileExistsError, PermissionError):
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
        os.close(os.open("config", flags, 0o644, dir_fd=git_directory))
        _give("config", git_directory)
        yield "config"


def _give(name: str, directory: int) -> None:
    """What root makes is its directory's owner's."""
    if os.geteuid() == 0:
        owner = os.fstat(directory)
        os.chown(name, owner.st_uid, owner.st_gid, dir_fd=directory, follow_symlinks=False)


def _git_directories(root: Path, dot_git: str) -> Iterator[str]:
    """Itself, those of its submodules, theirs, and what it keeps of each linked worktree."""
    yield dot_git
    yield from _below(root, f"{dot_git}/worktrees", 1)
    for module in _below(root, f"{dot_git}/modules", _MODULE_DEPTH):
        yield from _git_directories(root, module)


def _below(root: Path, directory: str, depth: int) -> Iterator[str]:
    """Directories with a HEAD in them; a submodule's name may have slashes."""
    if not _is_directory(root / directory):
        return
    for name in sorted(os.listdir(root / directory)):  # noqa: PTH208  names are wanted
        path = f"{directory}/{name}"
        if not _is_directory(root / path):
            continue
        if (root / path / "HEAD").exists():
            yield path
        elif depth > 1:
            yield from _below(root, path, depth - 1)


def _run_by_config(root: Path, place: str, config: str) -> Iterator[str]:
    """Paths of the tree that a git configuration names as something to run or to read: a hooksPath, an include."""
    try:
        text = (root / config).read_bytes()[:_MAX_CONFIG].decode(errors="replace")
    except OSError:
        return
    section = ""
    for line in text.splitlines():
        match = _SETTING.fullmatch(line)
        if match is None:
            continue
        section = (match["section"] or section).lower()
        if not match["key"] or (section != "alias" and match["key"].lower() not in _RUNS):
            continue
        for word in match["value"].translate(_QUOTES).lstrip("! ").split():
            for base in (place, str(PurePosixPath(config).parent)):
                path = os.path.normpath(_join(base, word))
                if not path.startswith(("..", "/")) and path != "." and _is_there(root / path):
                    yield path


def _is_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _is_by_link(root: Path, path: str) -> bool:
    """Whether the engine, which follows links, would mount something else than what lies at the path itself."""
    return (root / path).resolve() != root / path


def _is_there(path: Path) -> bool:
    """Whether something has this name, be it a link that leads nowhere."""
    return path.is_symlink() or path.exists()


def _above(path: str) -> Iterator[str]:
    for parent in PurePosixPath(path).parents:
        if str(parent) != ".":
            yield str(parent)


def _is_in(path: str, other: str) -> bool:
    return path == other or path.startswith(f"{other}/")


def _join(place: str, name: str) -> str:
    return f"{place}/{name}" if place else name
