"""Homes that are kept: one directory for each tool, `.cloned/homes/TOOL/home`, and nobody else ever sees it.

Beside the home, where the tool cannot reach, stand the user whose files it holds (`user`) and the lock that a reset
needs alone (`lock`): runs share it, so that two of one tool can be in its home at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloned_proxy.runner.files.disk import DiskUsage, disk_usage, home_bound
from cloned_proxy.runner.files.files import remove_scratch
from cloned_proxy.runner.values.errors import SandboxError, SandboxInputError
from cloned_proxy.runner.values.spec import PKI, PKI_SOURCE, check_tool_id
from cloned_proxy.store.files.atomic import fix_for
from cloned_proxy.store.files.files import read_regular_file
from cloned_proxy.store.files.private_file import create_private

_MAX_USER: Final = 256
_SHARE_SECONDS: Final = 10.0
_ALONE_SECONDS: Final = 1.0
"""Longer than `home list` has a lock to see whether others do."""
_RETRY_SECONDS: Final = 0.02


@dataclass(frozen=True, slots=True)
class KeptHome:
    """One home as it lies on disk."""

    tool: str
    path: Path
    user: str
    """The user whose files are in it, as the engine names users; empty when no run has used it yet."""
    in_use: bool
    last_used: float
    """When a run last began in it, Unix seconds."""

    def usage(self) -> DiskUsage:
        """What is in it now."""
        return disk_usage(self.path)


class Homes:
    """The kept homes of one workspace."""

    def __init__(self, workspace: Path) -> None:
        self._root = workspace / "homes"

    @contextlib.contextmanager
    def use(self, tool: str, *, user: str, size: int) -> Iterator[Path]:
        """The home of `tool` for the time of one run, made where there is none; `size` is its bound in bytes.

        Raises SandboxInputError when it is full, is being reset, or holds another user's files.
        """
        check_tool_id(tool)
        place = self._place(tool)
        with _locked(place, fcntl.LOCK_SH, _SHARE_SECONDS) as lock:
            if lock is None:
                raise SandboxInputError(f"the home of {tool} is being reset; try again when that is done")
            _claim(place, tool, user)
            home = place / "home"
            home.mkdir(mode=0o700, exist_ok=True)
            # The tool's user is not this one. Nobody else comes here: the directories above are 0700.
            home.chmod(0o1777)
            if full := home_bound(home, tool, size).check():
                raise SandboxInputError(f"the home of {tool} is full: {full}")
            os.utime(lock)
            yield home

    def list(self) -> list[KeptHome]:
        """All of them, by name."""
        if not self._root.is_dir():
            return []
        return [found for place in sorted(self._root.iterdir()) if (found := _look(place)) is not None]

    def reset(self, tool: str, sweep: Callable[[Path, str], None]) -> None:
        """Removes a home with everything in it. Links in it are removed, not followed.

        `sweep(path, user)` empties the directory as that user: without root this one cannot remove another's files.
        Raises SandboxInputError for a home that is not there or is in use, SandboxError for what had to stay.
        """
        check_tool_id(tool)
        place = self._root / tool
        if not (place / "home").is_dir():
            raise SandboxInputError(f"{tool} has no kept home; `cloned-proxy home list` shows them")
        with _locked(place, fcntl.LOCK_EX, _ALONE_SECONDS) as lock:
            if lock is None:
                raise SandboxInputError(f"the home of {tool} is in use: end its runs first (`docker ps` lists them)")
            home = place / "home"
            if not remove_scratch(home):
                sweep(home, _user_of(place))
            if not remove_scratch(home):
                raise SandboxError(f"{home} could not be removed; as root: rm -rf {home}")
            (place / "user").unlink(missing_ok=True)

    def _place(self, tool: str) -> Path:
        place = self._root / tool
        try:
            for directory in (self._root, place):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                directory.chmod(0o700)
        except OSError as error:
            raise SandboxError(f"{place}: the home cannot be made: {error.strerror}; {fix_for(error)}") from error
        return place


def link_nss(home: Path, *, wanted: bool) -> None:
    """In a kept home a link leads to the database of each run, unless the tool has one of its own; or it is taken away.

    The tool may have put anything there: nothing is followed, and nothing but such a link is removed.
    """
    directory = os.open(home, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if wanted:
            with contextlib.suppress(FileExistsError):
                os.symlink(PKI_SOURCE, PKI, dir_fd=directory)
            return
        with contextlib.suppress(OSError):  # none there, or no link
            if os.readlink(PKI, dir_fd=directory) == PKI_SOURCE:
                os.unlink(PKI, dir_fd=directory)
    finally:
        os.close(directory)


def _look(place: Path) -> KeptHome | None:
    if not (place / "home").is_dir():
        return None
    with _locked(place, fcntl.LOCK_EX, 0) as lock:
        in_use = lock is None
    return KeptHome(place.name, place / "home", _user_of(place), in_use, (place / "lock").stat().st_mtime)


def _claim(place: Path, tool: str, user: str) -> None:
    # When two first runs race, one writes; both read what stands there then.
    if not (place / "user").exists():
        create_private(place / "user", user.encode())
    owner = _user_of(place)
    if owner != user:
        raise SandboxInputError(
            f"the home of {tool} holds files of user {owner}, and this run is user {user}: run it as before (with "
            f"--user me, or without; `shell` is --user me), give this run a tool id of its own, or "
            f"`cloned-proxy home reset {tool}`"
        )


def _user_of(place: Path) -> str:
    file = place / "user"
    return read_regular_file(file, limit=_MAX_USER, what="owner of a home").decode() if file.exists() else ""


@contextlib.contextmanager
def _locked(place: Path, kind: int, seconds: float) -> Iterator[int | None]:
    """The lock of a home, or None when others hold it for all of `seconds` in a way that excludes this one.

    The file stays, for the times of its runs.
    """
    descriptor = os.open(place / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    deadline = time.monotonic() + seconds
    try:
        while not _try_lock(descriptor, kind):
            if time.monotonic() >= deadline:
                yield None
                return
            time.sleep(_RETRY_SECONDS)
        yield descriptor
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
