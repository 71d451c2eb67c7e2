"""What a sandbox is, as a value, and the container that the engine is asked for. Pure: no engine, file or clock.

The words are the Engine API's own (they are what `docker inspect` shows), so that this file can be read beside
contract section 8 line by line.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from types import MappingProxyType
from typing import Any, Final

from cloned_proxy.runner.errors import SandboxInputError

MIB: Final = 1024 * 1024
PROXY_PORT: Final = 8081
PROXY_URL: Final = f"http://127.0.0.1:{PROXY_PORT}"
DEFAULT_USER: Final = "65532:65532"
TOOL_LABEL: Final = "cloned.tool"
RUN_LABEL: Final = "cloned.run"
OWNER_LABEL: Final = "cloned.owner"
"""Which process made the container; see `slots.owner_id`. A dead owner's containers are removed at the next start."""

WORKSPACE_LABEL: Final = "cloned.workspace"

_PROXY_NAMES: Final = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_CA_NAMES: Final = (
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
)
CA_FILE: Final = "/sandbox/.cloned-ca.pem"
_OWN_TARGETS: Final = ("/workspace", "/sandbox", "/tmp", "/proc", "/sys", "/dev")  # noqa: S108  paths in the container
_ENV_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TOOL_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,127}")
_CONTAINER_NAME: Final = re.compile(r"cloned_(?:tool|slot)_[0-9a-f]{8}")


@dataclass(frozen=True, slots=True)
class Mount:
    """A bind mount that somebody asked for by name; `source` is an absolute host path."""

    source: str
    target: str
    read_only: bool = True


@dataclass(frozen=True, slots=True)
class Limits:
    """What one tool may use. Sizes are bytes."""

    cpus: float = 1.0
    memory: int = 512 * MIB
    pids: int = 256
    open_files: int = 1024
    tmp: int = 64 * MIB
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
    workspace: str
    """Host path of the project, seen read-only at /workspace."""
    scratch: str
    """Host path of the directory of this call, seen at /sandbox."""
    seccomp: str
    """The profile itself, as JSON text."""
    user: str = DEFAULT_USER
    owner: str = ""
    workspace_mark: str = ""
    masked: tuple[str, ...] = ()
    """Paths under /workspace that hold secrets: an empty, unreadable file system lies over each."""
    env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    mounts: tuple[Mount, ...] = ()
    limits: Limits = Limits()
    proxy_url: str = PROXY_URL
    with_ca: bool = False
    """A rule of this tool opens TLS: its clients must trust the workspace CA as well."""

    def __post_init__(self) -> None:
        check_tool_id(self.tool)
        _check_name(self.name)
        _check_user(self.user)
        _check_env(self.env)
        for mount in self.mounts:
            check_mount(mount)
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
    forwards: tuple[tuple[int, str], ...] = ()
    """(port, socket name): the holder itself forwards, because the proxy may not enter the namespace."""
    socket_dir: str = ""
    """Host directory of those sockets; only this holder mounts it."""


def workspace_mark(workspace: PurePath) -> str:
    """Which workspace a container is of, without showing its path to everybody who lists containers."""
    return hashlib.sha256(str(workspace).encode()).hexdigest()[:12]


def check_tool_id(tool: str) -> None:
    """Raises SandboxInputError unless `tool` can be a label, a user name in a URL and a line of the log."""
    if not _TOOL_ID.fullmatch(tool):
        raise SandboxInputError(f"{tool!r} is not a tool id; use letters, digits and ._@+-, as in my.tool@v1")


def tool_container(spec: SandboxSpec) -> dict[str, Any]:
    """The body of the engine's create request for a tool."""
    return {
        "Image": spec.image,
        "Entrypoint": [],
        "Cmd": list(spec.command),
        "User": spec.user,
        "WorkingDir": "/workspace",
        "Env": [f"{name}={value}" for name, value in tool_environment(spec).items()],
        "Labels": {
            TOOL_LABEL: spec.tool,
            RUN_LABEL: spec.run,
            OWNER_LABEL: spec.owner,
            WORKSPACE_LABEL: spec.workspace_mark,
        },
        "OpenStdin": True,
        "StdinOnce": True,
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "Tty": False,
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": {
            **hardening(spec.seccomp, spec.limits),
            "NetworkMode": f"container:{spec.holder}",
            "Init": True,
            "Tmpfs": {
                "/tmp": f"rw,noexec,nosuid,nodev,size={spec.limits.tmp // MIB}m",  # noqa: S108  in the container
                **dict.fromkeys(spec.masked, "ro,noexec,nosuid,nodev,size=4k,mode=000"),
            },
            "Mounts": [
                bind_mount(spec.workspace, "/workspace", read_only=True),
                bind_mount(spec.scratch, "/sandbox", read_only=False),
                *(bind_mount(mount.source, mount.target, read_only=mount.read_only) for mount in spec.mounts),
            ],
        },
    }


def sweeper_container(spec: SandboxSpec) -> dict[str, Any]:
    """A container that empties a scratch directory as the tool's own user, where the runner's user may not."""
    script = "chmod -R u+rwX /sandbox/* /sandbox/.[!.]*; rm -rf /sandbox/* /sandbox/.[!.]* /sandbox/..?*"
    return {
        "Image": spec.image,
        "Entrypoint": [],
        "Cmd": ["sh", "-c", f"{{ {script}; }} 2>/dev/null"],
        "User": spec.user,
        "Labels": {OWNER_LABEL: spec.owner, WORKSPACE_LABEL: spec.workspace_mark},
        "HostConfig": {
            **hardening(spec.seccomp, spec.limits),
            "NetworkMode": "none",
            "Mounts": [bind_mount(spec.scratch, "/sandbox", read_only=False)],
        },
    }


def holder_container(spec: HolderSpec) -> dict[str, Any]:
    """The body of the engine's create request for a slot's holder: as hard as a tool, and far smaller."""
    _check_name(spec.name)
    words = [word for port, name in spec.forwards for word in (str(port), f"/run/cloned/{name}")]
    mounts = [bind_mount(spec.socket_dir, "/run/cloned", read_only=True)] if spec.forwards else []
    tiny = Limits(cpus=1.0, memory=16 * MIB, pids=8)
    return {
        "Image": spec.image,
        "Entrypoint": ["/holder"],
        "Cmd": ["forward", *words] if words else [],
        "User": DEFAULT_USER,
        "Env": [],
        "Hostname": "sandbox",
        "Labels": {OWNER_LABEL: spec.owner, WORKSPACE_LABEL: spec.workspace_mark},
        "AttachStdout": bool(words),
        "HostConfig": {
            **hardening(spec.seccomp, tiny),
            "NetworkMode": spec.network,
            # Nothing answers there: a name is asked of the proxy, or of nobody.
            "Dns": ["127.0.0.1"],
            "DnsOptions": ["timeout:1", "attempts:1"],
            "DnsSearch": ["."],
            "Mounts": mounts,
        },
    }


def tool_environment(spec: SandboxSpec) -> dict[str, str]:
    """Every variable of the tool; nothing of the host's own environment is in it."""
    env = proxy_environment(spec.proxy_url) | {
        "HOME": "/tmp",  # noqa: S108  in the container: its tmpfs
        "CLONED_SANDBOX": "1",
        "CLONED_TOOL": spec.tool,
        "CLONED_CONTAINER_NAME": spec.name,
    }
    if spec.with_ca:
        env |= ca_environment(CA_FILE)
    return {**env, **spec.env}


def proxy_environment(url: str) -> dict[str, str]:
    """The variables by which clients find the proxy, in both cases, and none that lets them leave it out."""
    env = dict.fromkeys((*_PROXY_NAMES, *(name.lower() for name in _PROXY_NAMES)), url)
    return env | {"NO_PROXY": "", "no_proxy": "", "NODE_USE_ENV_PROXY": "1"}


def ca_environment(path: str) -> dict[str, str]:
    """The variables by which clients find the roots that they trust."""
    return dict.fromkeys(_CA_NAMES, path)


def hardening(seccomp: str, limits: Limits) -> dict[str, Any]:
    """What every container of ours has in its HostConfig."""
    return {
        "ReadonlyRootfs": True,
        "Privileged": False,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges:true", f"seccomp={seccomp}"],
        "PidsLimit": limits.pids,
        "Memory": limits.memory,
        "MemorySwap": limits.memory,
        "NanoCpus": int(limits.cpus * 1_000_000_000),
        "Ulimits": [
            {"Name": "nofile", "Soft": limits.open_files, "Hard": limits.open_files},
            {"Name": "core", "Soft": 0, "Hard": 0},
            {"Name": "fsize", "Soft": limits.scratch, "Hard": limits.scratch},
        ],
        "IpcMode": "private",
        "CgroupnsMode": "private",
        "RestartPolicy": {"Name": "no"},
        "AutoRemove": False,
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "1"}},
    }


def bind_mount(source: str, target: str, *, read_only: bool) -> dict[str, Any]:
    """A bind mount into which the host's later mounts do not show through."""
    options = {"Propagation": "rprivate"}
    return {"Type": "bind", "Source": source, "Target": target, "ReadOnly": read_only, "BindOptions": options}


def _check_name(name: str) -> None:
    if not _CONTAINER_NAME.fullmatch(name):
        raise SandboxInputError(f"{name!r} is not a container name of ours (cloned_tool_ and 8 hex digits)")


def _check_user(user: str) -> None:
    if user.partition(":")[0] in ("", "0", "root"):
        raise SandboxInputError(f"user {user!r}: a tool never runs as root; name another user of the image")


def _check_env(env: Mapping[str, str]) -> None:
    reserved = {name.upper() for name in (*_PROXY_NAMES, *_CA_NAMES, "NO_PROXY", "NODE_USE_ENV_PROXY")}
    for name, value in env.items():
        if not _ENV_NAME.fullmatch(name) or "\0" in value:
            raise SandboxInputError(f"--env {name!r} is not NAME=VALUE")
        if name.upper() in reserved or name.startswith("CLONED_"):
            raise SandboxInputError(f"--env {name} is set by the sandbox itself; leave it out")


def check_mount(mount: Mount) -> None:
    """Raises SandboxInputError when the target would hide something of the sandbox's own."""
    target = posixpath.normpath(mount.target)
    if not mount.source.startswith("/") or not target.startswith("/") or target == "/":
        raise SandboxInputError(f"--mount {mount.source}:{mount.target}: both sides must be absolute paths below /")
    for own in _OWN_TARGETS:
        if target == own or target.startswith(f"{own}/") or own.startswith(f"{target}/"):
            raise SandboxInputError(f"--mount …:{mount.target}: {own} belongs to the sandbox; use /mnt/<name>")
