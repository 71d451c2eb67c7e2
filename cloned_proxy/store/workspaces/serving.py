"""Which workspaces are served now: one small file for each running `serve` of this user, locked while it runs.

A command that finds no workspace where it stands looks here for the one that its user means. The files lie in the
user's runtime directory (XDG Base Directory Specification), 0700. The lock is the liveness: the kernel takes it from a
process however that ends, and a file without one is swept away.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from cloned_proxy.store.files.errors import StoreError

_MAX_BYTES: Final = 16_384
_SUFFIX: Final = ".json"


@dataclass(frozen=True, slots=True)
class Serving:
    """One running `serve`. Addresses are `host:port`."""

    workspace: Path
    """Absolute: the `.cloned` directory."""
    policy: Path
    """Absolute: the policy file that it follows."""
    proxy: str
    control: str | None
    """None: off."""
    metrics: str | None
    pid: int
    since: float
    """Unix seconds."""


def serving_now(*, environ: Mapping[str, str] | None = None) -> list[Serving]:
    """What this user serves, the newest first. Never raises: a directory that cannot be trusted holds nothing."""
    try:
        directory = _directory(os.environ if environ is None else environ)
        files = sorted(directory.glob(f"*{_SUFFIX}"))
    except (OSError, StoreError):
        return []
    found = [serving for file in files if (serving := _read(file)) is not None]
    return sorted(found, key=lambda serving: serving.since, reverse=True)


def server_of(workspace: Path, *, environ: Mapping[str, str] | None = None) -> Serving | None:
    """The newest `serve` of this workspace; None while nothing serves it."""
    return next((serving for serving in serving_now(environ=environ) if _same(serving.workspace, workspace)), None)


def another_at(url: str, workspace: Path, *, environ: Mapping[str, str] | None = None) -> Serving | None:
    """The `serve` at a proxy URL, when it serves another workspace than this one; None for what is not known."""
    found = [serving for serving in serving_now(environ=environ) if url == f"http://{serving.proxy}"]
    if not found or any(_same(serving.workspace, workspace) for serving in found):
        return None
    return found[0]


@contextlib.contextmanager
def announced(serving: Serving, *, environ: Mapping[str, str] | None = None) -> Iterator[None]:
    """While inside, other commands of this user find it. Raises StoreError when no directory can hold the file."""
    directory = _directory(os.environ if environ is None else environ)
    try:
        descriptor, file = _write(directory, serving)
    except OSError as error:
        raise StoreError(f"{directory}: {error.strerror or error}; set XDG_RUNTIME_DIR to a writable place") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            file.unlink(missing_ok=True)
        os.close(descriptor)


def _directory(environ: Mapping[str, str]) -> Path:
    """`$XDG_RUNTIME_DIR`, else what systemd makes for each user, else a place of this user in /tmp; made where missing.

    The variable may be another user's, kept by `su`: what does not belong to this user is passed over.
    Raises StoreError or OSError.
    """
    user = os.geteuid()
    for parent in (environ.get("XDG_RUNTIME_DIR", ""), f"/run/user/{user}"):
        if os.path.isabs(parent) and _is_private(Path(parent), user):  # noqa: PTH117  "" is no path
            return _made(Path(parent, "cloned-proxy"), user)
    return _made(Path(f"/tmp/cloned-proxy-{user}"), user)  # noqa: S108  checked to be ours alone below


def _made(directory: Path, user: int) -> Path:
    directory.mkdir(mode=0o700, exist_ok=True)
    if not _is_private(directory, user):
        raise StoreError(f"{directory}: is not a directory of user {user} alone; remove it, or set XDG_RUNTIME_DIR")
    return directory


def _is_private(directory: Path, user: int) -> bool:
    """Whether only this user can write there. A link does not count: in /tmp anybody may have made one."""
    try:
        info = directory.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(info.st_mode) and info.st_uid == user and not stat.S_IMODE(info.st_mode) & 0o022


def _write(directory: Path, serving: Serving) -> tuple[int, Path]:
    """A descriptor that holds the lock, and the file. Renamed once it is locked: nobody sees it without its lock."""
    name = secrets.token_hex(8)
    draft, file = directory / f".{name}.tmp", directory / f"{name}{_SUFFIX}"
    descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(descriptor, json.dumps(asdict(serving), default=str).encode())
        draft.rename(file)
    except BaseException:
        os.close(descriptor)
        draft.unlink(missing_ok=True)
        raise
    return descriptor, file


def _read(file: Path) -> Serving | None:
    """What a file says; None, and the file is gone, when the process that wrote it is."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        if not _is_locked(descriptor):
            file.unlink(missing_ok=True)
            return None
        return _parse(json.loads(os.read(descriptor, _MAX_BYTES)))
    except (OSError, ValueError, TypeError, KeyError):
        return None
    finally:
        os.close(descriptor)


def _is_locked(descriptor: int) -> bool:
    try:
        # Shared: two commands that look at once must not take each other for the proxy.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _parse(data: dict[str, Any]) -> Serving:
    paths = {name: Path(data[name]) for name in ("workspace", "policy")}
    return Serving(**{**data, **paths})


def _same(one: Path, other: Path) -> bool:
    """Whether two paths are one directory, however they are spelled."""
    try:
        return one.samefile(other)
    except OSError:
        return one == other.absolute()
