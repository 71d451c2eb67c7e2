"""Which directory is the project, as whom its tool works, and where it begins."""

from __future__ import annotations

import enum
import os
import pwd
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from cloned_proxy.runner.docker.engine_answers import EngineFacts
from cloned_proxy.runner.values.errors import SandboxInputError

_SYSTEM: Final = frozenset({
    "/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/opt", "/proc", "/run", "/sbin", "/sys", "/usr",
    "/usr/bin", "/usr/lib", "/usr/local", "/usr/sbin", "/usr/share", "/var", "/var/lib",
    "/dev/shm", "/tmp", "/var/tmp",  # noqa: S108  they are refused
})  # fmt: skip
_NOT_OURS: Final = ("/opt/cloned", "/proc", "/sandbox", "/sys")
"""A project there would lie over, or under, what the sandbox itself needs."""
VISIBLE: Final = "/workspace"
SCRATCH: Final = "/sandbox"


class ProjectAccess(enum.StrEnum):
    """What `--project` takes."""

    READ_WRITE = "rw"
    READ_ONLY = "ro"
    NONE = "none"


def project_of(workspace: Path, here: Path | None = None) -> Path:
    """The directory that holds the workspace; where that is a home or the root, the directory `here` below it.

    Links are resolved. Raises SandboxInputError for a directory that is never a project.
    """
    project = workspace.parent.resolve()
    if here is not None and _why_never(project):
        below = here.resolve()
        project = below if below.is_relative_to(project) else project
    if why := _why_never(project):
        raise SandboxInputError(
            f"{project} is {why} and never taken for a project, whose every file a tool may read: `cd` into a "
            "project, or use `--project none`"
        )
    return project


def _why_never(directory: Path) -> str:
    """In words; "" for a directory that may be a project."""
    if directory == Path("/"):
        return "the root of the file system"
    if str(directory) in _SYSTEM:
        return "a directory of the system"
    for home in _homes():
        if directory == home:
            return "a home directory"
        if home.is_relative_to(directory):
            return f"above the home directory {home}"
    return ""


def _homes() -> Iterator[Path]:
    """Homes of the caller, of whoever called sudo, of root, and of everybody else that this machine knows."""
    named = [os.environ.get("HOME", ""), *(entry.pw_dir for entry in pwd.getpwall() if _is_home(entry))]
    for text in named:
        if text.startswith("/"):
            home = Path(text).resolve()
            if home != Path("/"):
                yield home


def _is_home(entry: pwd.struct_passwd) -> bool:
    """Accounts of services have directories such as /usr/sbin or /var/www, which are nobody's home."""
    return entry.pw_uid == 0 or entry.pw_uid == os.getuid() or _FIRST_PERSON <= entry.pw_uid < _NOBODY


_FIRST_PERSON: Final = 1000
"""UID_MIN of login.defs(5)."""
_NOBODY: Final = 65_534


def user_of_caller(project: Path | None, facts: EngineFacts) -> str:
    """`uid:gid` of the caller; for root, of whoever owns the project. Raises SandboxInputError."""
    if facts.rootless or any("userns" in option for option in facts.security):
        raise SandboxInputError(
            "--user me: this engine gives its containers other user ids than this machine's (rootless, or "
            "userns-remap), so nothing that a tool writes would be yours; use an engine without that, or leave it out"
        )
    check_caller(project)
    if project is None or os.geteuid() != 0:
        return f"{os.geteuid()}:{os.getegid()}"
    owner = project.stat()
    return f"{owner.st_uid}:{owner.st_gid}"


def check_caller(project: Path | None) -> None:
    """Raises SandboxInputError where there is nobody to be: the caller is root, and the project is no user's."""
    if os.geteuid() == 0 and (project is None or project.stat().st_uid == 0):
        raise SandboxInputError(
            "--user me: you are root, and a tool never runs as root; "
            + (
                "leave it out"
                if project is None
                else f"give {project} to a user (`chown -R USER {project}`), and go on as that user"
            )
        )


def working_directory(wish: str | None, here: Path, project: Path | None, inside: Collection[str]) -> str:
    """Where a command begins, as the container's path. Raises SandboxInputError.

    `wish` is a directory of the project by its path on this machine, or one at or below the paths `inside`, which only
    the container has. Without it: `here` when that is in the project, which has the same path inside.
    """
    if wish is None:
        if project is None:
            return SCRATCH
        below = here.resolve()
        return str(below) if below.is_relative_to(project) else VISIBLE
    found = (here / wish).resolve()
    if project is not None and found.is_relative_to(project):
        if not found.is_dir():
            raise SandboxInputError(f"--workdir {wish}: not a directory")
        return str(found)
    own = PurePosixPath(os.path.normpath(wish))
    if any(own.is_relative_to(path) for path in inside):
        return str(own)
    raise SandboxInputError(
        f"--workdir {wish}: not in {'a project' if project is None else project}, and not in the sandbox's own "
        f"{', '.join(inside)}"
    )


def check_own_path(project: Path) -> None:
    """Raises SandboxInputError where a project could not be seen at its own path without hiding something."""
    for taken in _NOT_OURS:
        if project.is_relative_to(taken):
            raise SandboxInputError(f"{project}: {taken} is the sandbox's own; move the project, or use another")
