"""Files on both sides of the sandbox wall: what a tool may be shown, and what it left behind.

Everything in a scratch directory was written by the tool. It is opened without following links, without blocking on a
FIFO, and read up to a bound.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from cloned_proxy.runner.errors import SandboxInputError, ToolFailedError
from cloned_proxy.runner.spec import Mount

_MAX_ENTRIES: Final = 1_000_000
_SHOWN: Final = 5


def refuse_doors(root: Path, *, masked: frozenset[Path] = frozenset()) -> None:
    """Raises SandboxInputError when there are sockets or FIFOs below `root`: a read-only mount does not stop them.

    A connect or a write goes through to whoever listens on the host. Masked directories are not seen by the tool.
    """
    found: list[str] = []
    for count, (path, entry) in enumerate(_walk(root, masked)):
        if count >= _MAX_ENTRIES:
            raise SandboxInputError(f"{root} has more than {_MAX_ENTRIES} entries; use a smaller workspace")
        with contextlib.suppress(FileNotFoundError):
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISSOCK(mode) or stat.S_ISFIFO(mode):
                found.append(path)
    if found:
        names = ", ".join(sorted(found)[:_SHOWN]) + (f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")
        raise SandboxInputError(
            f"{root} contains sockets or FIFOs, through which a tool would reach the host: {names}; "
            "move them out of the workspace (a debugger, agent or database may have put them there)"
        )


def _walk(root: Path, masked: frozenset[Path]) -> Iterator[tuple[str, os.DirEntry[str]]]:
    pending = [str(root)]
    hidden = {str(path) for path in masked}
    while pending:
        directory = pending.pop()
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        if entry.path not in hidden:
                            pending.append(entry.path)
                    elif not entry.is_symlink() and not entry.is_file(follow_symlinks=False):
                        yield entry.path, entry
        except PermissionError as error:
            raise SandboxInputError(
                f"{directory} cannot be searched for sockets: {error.strerror}; make it readable or move it out"
            ) from error
        except FileNotFoundError:
            continue  # removed while we walked


def check_source(mount: Mount) -> None:
    """Raises SandboxInputError unless the mount's source is a file, or a directory without doors."""
    source = Path(mount.source)
    if not source.exists():
        raise SandboxInputError(f"--mount {mount.source}: does not exist on this machine")
    real = source.resolve()
    if real.is_dir():
        refuse_doors(real)
    elif not real.is_file():
        raise SandboxInputError(f"--mount {mount.source}: neither a file nor a directory; sockets and devices stay out")


def read_scratch(root: Path, name: str, *, limit: int) -> bytes:
    """A regular file that the tool left at `name` (relative). Raises ToolFailedError.

    Each part is opened relative to the one before with O_NOFOLLOW: no link on the way can lead out.
    """
    parts = PurePosixPath(name).parts
    if not parts or PurePosixPath(name).is_absolute() or ".." in parts:
        raise ToolFailedError(f"result {name!r} is not a path below /sandbox")
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    opened: list[int] = []
    try:
        opened.append(os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        for part in parts[:-1]:
            opened.append(os.open(part, flags | os.O_DIRECTORY, dir_fd=opened[-1]))
        opened.append(os.open(parts[-1], flags, dir_fd=opened[-1]))
        info = os.fstat(opened[-1])
        if not stat.S_ISREG(info.st_mode):
            raise ToolFailedError(f"/sandbox/{name} is not a regular file; a tool's result must be one")
        with os.fdopen(opened.pop(), "rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise ToolFailedError(f"/sandbox/{name} cannot be read: {error.strerror}; links are not followed") from error
    finally:
        for descriptor in opened:
            os.close(descriptor)
    if len(data) > limit:
        raise ToolFailedError(f"/sandbox/{name} is larger than {limit} bytes; write less, or raise the limit")
    return data


def new_scratch(parent: Path, run: str) -> Path:
    """The directory of one call. The tool's user may write in it; nobody else can reach it through its 0700 parent."""
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    parent.chmod(0o700)
    path = parent / run
    path.mkdir(mode=0o700)
    path.chmod(0o1777)
    return path


def remove_scratch(path: Path) -> bool:
    """Removes it with everything in it; False when something in it belongs to somebody else and had to stay."""
    shutil.rmtree(path, ignore_errors=True)
    return not path.exists()
