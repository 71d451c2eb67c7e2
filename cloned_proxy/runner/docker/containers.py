"""The containers that the engine is asked for. Pure.

The words are the Engine API's own (they are what `docker inspect` shows), so that this file can be read beside
docs/sandbox.md#what-docker-inspect-shows line by line.
"""

from __future__ import annotations

from typing import Any, Final

from cloned_proxy.runner.namespaces.handing import SOCKET_NAME
from cloned_proxy.runner.values.environment import ca_environment, proxy_environment, with_java_options
from cloned_proxy.runner.values.spec import (
    CA_FILE,
    DEFAULT_USER,
    HOME,
    MIB,
    OWNER_LABEL,
    RUN_LABEL,
    TOOL_LABEL,
    WORKSPACE_LABEL,
    HolderSpec,
    SandboxLimits,
    SandboxSpec,
    check_name,
)
from cloned_proxy.runner.values.terminal import INIT_ENVIRONMENT

HOSTNAME: Final = "sandbox"
NO_NAMES: Final = {"Dns": ["127.0.0.1"], "DnsOptions": ["timeout:1", "attempts:1"], "DnsSearch": ["."]}
"""The proxy answers there, or nobody: a name is asked of no one else."""


def tool_container(spec: SandboxSpec) -> dict[str, Any]:
    """The body of the engine's create request for a tool."""
    return {
        "Image": spec.image,
        "Entrypoint": [],
        "Cmd": list(spec.command),
        "User": spec.user,
        "WorkingDir": spec.workdir,
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
        "Tty": spec.terminal is not None,
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": {
            **hardening(spec.seccomp, spec.limits, largest_file=_largest_file(spec)),
            "NetworkMode": f"container:{spec.holder}",
            "Init": True,
            "ConsoleSize": [spec.terminal.rows, spec.terminal.columns] if spec.terminal is not None else [0, 0],
            "Tmpfs": {
                "/tmp": f"rw,noexec,nosuid,nodev,size={spec.limits.tmp // MIB}m",  # noqa: S108  in the container
                **({} if spec.home else {HOME: _home_in_memory(spec)}),
                **dict.fromkeys(spec.masked, _mask(spec.user)),
            },
            "Mounts": [
                bind_mount(spec.scratch, "/sandbox", read_only=False),
                *([bind_mount(spec.home, HOME, read_only=False)] if spec.home else []),
                *(
                    bind_mount(mount.source, mount.target, read_only=mount.read_only)
                    for mount in (*spec.binds, *spec.mounts)
                ),
            ],
        },
    }


def _mask(user: str) -> str:
    """An empty file system that nobody can write, and the tool can list: programs trip over closed directories.

    It is the tool's own where that can be said, because runc before 1.2 gives it the mode of what it lies over (0700).
    """
    uid, _, gid = user.partition(":")
    own = f",uid={uid},gid={gid}" if uid.isdecimal() and gid.isdecimal() else ""
    return f"ro,noexec,nosuid,nodev,size=4k,mode=555{own}"


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
    check_name(spec.name)
    words = ["hand", f"/run/cloned/{SOCKET_NAME}"] if spec.socket_dir else []
    mounts = [bind_mount(spec.socket_dir, "/run/cloned", read_only=True)] if spec.socket_dir else []
    tiny = SandboxLimits(cpus=1.0, memory=16 * MIB, pids=8)
    return {
        "Image": spec.image,
        "Entrypoint": ["/holder"],
        "Cmd": words,
        "User": DEFAULT_USER,
        "Env": [],
        "Hostname": HOSTNAME,
        "Labels": {OWNER_LABEL: spec.owner, WORKSPACE_LABEL: spec.workspace_mark},
        "AttachStdout": bool(words),
        "HostConfig": {
            **hardening(spec.seccomp, tiny),
            "NetworkMode": spec.network,
            # Whoever opens a port there needs no capability: most engines say so by themselves.
            "Sysctls": {"net.ipv4.ip_unprivileged_port_start": "0"},
            **NO_NAMES,
            "Mounts": mounts,
        },
    }


def tool_environment(spec: SandboxSpec) -> dict[str, str]:
    """Every variable of the tool; nothing of the host's own environment is in it."""
    env = proxy_environment(spec.proxy_url) | {
        "HOME": HOME,
        "CLONED_SANDBOX": "1",
        "CLONED_TOOL": spec.tool,
        "CLONED_CONTAINER_NAME": spec.name,
    }
    if spec.terminal is not None:
        env |= INIT_ENVIRONMENT
    if spec.with_ca:
        env |= ca_environment(CA_FILE)
    return env | with_java_options(env, spec.env)


def _home_in_memory(spec: SandboxSpec) -> str:
    """Executable: npx, uvx and venv run what they put there, and the scratch directory is executable, too."""
    uid, _, gid = spec.user.partition(":")
    numeric = uid.isdigit() and (gid.isdigit() or not gid)
    # tmpfs(5) knows no names; a user that only its image can number shares the home with nobody all the same.
    owner = f"mode=0700,uid={uid},gid={gid or uid}" if numeric else "mode=1777"
    return f"rw,exec,nosuid,nodev,size={spec.limits.home // MIB}m,{owner}"


def _largest_file(spec: SandboxSpec) -> int:
    return max(spec.limits.scratch, spec.limits.kept_home if spec.home else spec.limits.home)


def hardening(seccomp: str, limits: SandboxLimits, *, largest_file: int | None = None) -> dict[str, Any]:
    """What every container of ours has in its HostConfig; `largest_file` (bytes) is all of scratch unless given."""
    file_size = limits.scratch if largest_file is None else largest_file
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
            {"Name": "fsize", "Soft": file_size, "Hard": file_size},
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
