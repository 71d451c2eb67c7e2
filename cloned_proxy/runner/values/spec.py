"""What a sandbox is, as values that check themselves. Pure: no engine, file or clock. `containers` asks for them."""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from types import MappingProxyType
from typing import Final

from cloned_proxy.policy.callers.tool_id import tool_id
from cloned_proxy.policy.terms.units import parse_size
from cloned_proxy.runner.values.environment import CA_NAMES, PROXY_URL, RESERVED
from cloned_proxy.runner.values.errors import SandboxInputError
from cloned_proxy.runner.values.terminal import TerminalSize

MIB: Final = 1024 * 1024
DEFAULT_USER: Final = "65532:65532"
TOOL_LABEL: Final = "cloned.tool"
RUN_LABEL: Final = "cloned.run"
OWNER_LABEL: Final = "cloned.owner"
"""The process that made the container, by `owner.owner_id`. A dead owner's containers are removed at the next start."""

WORKSPACE_LABEL: Final = "cloned.workspace"

HOME: Final = "/home/tool"
"""Every tool's HOME, in its container."""

CA_FILE: Final = "/sandbox/.cloned-ca.pem"
PKI: Final = ".pki"
"""In HOME, where programs that are built on NSS have their database, in `nssdb`."""
PKI_SOURCE: Final = "/sandbox/.cloned-pki"
"""What is seen there where there are private CAs."""
_OWN_TARGETS: Final = ("/workspace", "/sandbox", "/tmp", "/proc", "/sys", "/dev")  # noqa: S108  paths in the container
_ENV_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SMALLEST: Final = 16 * MIB
_CONTAINER_NAME: Final = re.compile(r"cloned_(?:tool|slot)_[0-9a-f]{8}")


@dataclass(frozen=True, slots=True)
class Mount:
    """A bind mount that somebody asked for by name; `source` is an absolute host path."""

    source: str
    target: str
    read_only: bool = True


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """What one tool may use. Sizes are bytes."""

    cpus: float = 1.0
    memory: int = 512 * MIB
    pids: int = 256
    open_files: int = 1024
    tmp: int = 64 * MIB
    home: int = 256 * MIB
    """In memory, and counted as memory; a kept one is on disk."""
    kept_home: int = 2048 * MIB
    scratch: int = 256 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSpec:
    """One run of one tool. Everything that decides how the container looks is in here."""

    tool: str
    run: str
    name: str
    """`cloned_tool_<8 hex>`."""
    image: str
    command: tuple[str, ...]
    holder: str
    """Id of the container whose network namespace the tool joins."""
    scratch: str
    """Host path of the directory of this call, seen at /sandbox."""
    seccomp: str
    """The profile itself, as JSON text."""
    user: str = DEFAULT_USER
    home: str = ""
    """Host path of the tool's kept home, seen at HOME; empty: a home in memory that ends with the run."""
    owner: str = ""
    workspace_mark: str = ""
    binds: tuple[Mount, ...] = ()
    """The project and whatever else the runner itself shows; `mounts` are what somebody asked for by name."""
    masked: tuple[str, ...] = ()
    """Directories that hold secrets: an empty, read-only file system lies over each."""
    workdir: str = "/workspace"
    env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    mounts: tuple[Mount, ...] = ()
    limits: SandboxLimits = SandboxLimits()
    terminal: TerminalSize | None = None
    """The size of its terminal; None: three streams and no terminal."""
    proxy_url: str = PROXY_URL
    with_ca: bool = False
    """There are private CAs, or a rule of this tool opens TLS: its clients must trust more than the public roots."""

    def __post_init__(self) -> None:
        check_tool_id(self.tool)
        check_name(self.name)
        _check_user(self.user)
        check_env(self.env)
        for mount in self.mounts:
            check_mount(mount)
            _check_below_home(mount, kept=bool(self.home))
        if not self.command:
            raise SandboxInputError("no command: write it behind --, as in `exec my.tool@v1 -- curl https://…`")


@dataclass(frozen=True, slots=True, kw_only=True)
class HolderSpec:
    """The container that keeps a slot's network namespace."""

    name: str
    """`cloned_slot_<8 hex>`."""
    image: str
    seccomp: str
    owner: str = ""
    workspace_mark: str = ""
    network: str = "none"
    socket_dir: str = ""
    """Host directory of the socket at which the holder hands over what it makes in its namespace, because the proxy
    may not enter that; only this holder mounts it. "": it does nothing but hold."""


def parse_memory(text: str) -> int:
    """Bytes of a size such as `512m`. Raises SandboxInputError, also for one that is too small for a container."""
    try:
        size = parse_size(text)
    except ValueError as error:
        raise SandboxInputError(f"memory: {error}") from error
    if size < _SMALLEST:
        raise SandboxInputError(f"memory {text!r}: write a size from 16m on, such as 512m or 2g")
    return size


def workspace_mark(workspace: PurePath) -> str:
    """Which workspace a container is of, without showing its path to everybody who lists containers."""
    return hashlib.sha256(str(workspace).encode()).hexdigest()[:12]


def check_tool_id(tool: str) -> None:
    """Raises SandboxInputError unless `tool` can be a tool's id."""
    try:
        tool_id(tool)
    except ValueError as error:
        raise SandboxInputError(str(error)) from error


def check_name(name: str) -> None:
    """Raises SandboxInputError unless it is a container name of ours."""
    if not _CONTAINER_NAME.fullmatch(name):
        raise SandboxInputError(f"{name!r} is not a container name of ours (cloned_tool_ and 8 hex digits)")


def _check_user(user: str) -> None:
    if user.partition(":")[0] in ("", "0", "root"):
        raise SandboxInputError(f"user {user!r}: a tool never runs as root; name another user of the image")


def check_env(env: Mapping[str, str]) -> None:
    """Raises SandboxInputError for what is no variable, and for one that the sandbox itself sets."""
    for name, value in env.items():
        if not _ENV_NAME.fullmatch(name) or "\0" in value:
            raise SandboxInputError(f"--env {name!r} is not NAME=VALUE")
        if name in CA_NAMES:
            raise SandboxInputError(
                f"--env {name} is set by the sandbox itself; private CAs stand in `sandbox: {{ca_files: […]}}`"
            )
        if name.upper() in RESERVED or name.startswith("CLONED_"):
            raise SandboxInputError(f"--env {name} is set by the sandbox itself; leave it out")


def check_mount(mount: Mount) -> None:
    """Raises SandboxInputError when the target would hide something of the sandbox's own."""
    target = posixpath.normpath(mount.target)
    if not mount.source.startswith("/") or not target.startswith("/") or target == "/":
        raise SandboxInputError(f"--mount {mount.source}:{mount.target}: both sides must be absolute paths below /")
    for own in _OWN_TARGETS:
        if target == own or target.startswith(f"{own}/") or own.startswith(f"{target}/"):
            raise SandboxInputError(f"--mount …:{mount.target}: {own} belongs to the sandbox; use /mnt/<name>")
    if target == HOME or HOME.startswith(f"{target}/"):
        raise SandboxInputError(f"--mount …:{mount.target}: {HOME} is the tool's home; use a path below it, or --home")


def _check_below_home(mount: Mount, *, kept: bool) -> None:
    """The engine makes the place that it mounts on, as root; in a kept home the tool could have put a link there."""
    if kept and posixpath.normpath(mount.target).startswith(f"{HOME}/"):
        raise SandboxInputError(f"--mount …:{mount.target}: nothing is mounted into a kept home; use /mnt/<name>")
