"""A GPU for the model: what the engine is asked for, and what this host offers.

Either through NVIDIA's container toolkit (`--gpus N|all`), or as the device nodes themselves with the driver's
libraries read-only beside them. Neither takes a capability, a network or another system-call filter. A process of uid 0
is refused: the driver's library makes device nodes that are missing, so that leaving one out is no wall against root.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from cloned_proxy.runner.docker.containers import bind_mount
from cloned_proxy.runner.values.errors import SandboxInputError

type Gpus = int | Literal["all", "devices"] | None

LIBRARY_DIRECTORY: Final = "/usr/local/nvidia/lib64"
"""On the library path of CUDA's own images; `LD_LIBRARY_PATH` names it for all others."""
_NEEDED: Final = ("nvidiactl", "nvidia-uvm")
"""The nodes that a process without capabilities needs beside the GPU's own."""
_GPU: Final = re.compile(r"nvidia[0-9]+")
_LIBRARIES: Final = re.compile(r"\s*(lib(?:cuda|nvidia-ml|nvidia-ptxjitcompiler|nvidia-nvvm)\.so\.\d+) .*=> (/\S+)")
_LDCONFIG: Final = ("/sbin/ldconfig", "-p")


@dataclass(frozen=True, slots=True)
class GpuHost:
    """What this host has for a GPU."""

    nodes: tuple[str, ...]
    """Exactly those device nodes that CUDA needs; () when one is missing."""
    libraries: tuple[tuple[str, str], ...]
    """(soname, path on this host) of the driver's libraries."""
    toolkit: bool
    """NVIDIA's container runtime is installed."""


def look(dev: Path = Path("/dev"), ldconfig: tuple[str, ...] = _LDCONFIG) -> GpuHost:
    """What is there now; looks only."""
    found = sorted((node.name for node in dev.glob("nvidia*") if _GPU.fullmatch(node.name)), key=lambda n: int(n[6:]))
    whole = found and all((dev / name).exists() for name in _NEEDED)
    nodes = tuple(str(dev / name) for name in ("nvidiactl", *found, "nvidia-uvm")) if whole else ()
    toolkit = any(shutil.which(name) for name in ("nvidia-container-runtime", "nvidia-ctk"))
    return GpuHost(nodes, _libraries(ldconfig) if nodes else (), toolkit)


def gpu_host_config(gpus: Gpus, user: str, host: GpuHost) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What the engine's HostConfig gets for a GPU, and the mounts beside it. Pure.

    Raises SandboxInputError where root would hold device nodes, and where this host has none.
    """
    if gpus is None:
        return {}, []
    if user.partition(":")[0] in ("0", "root"):
        raise SandboxInputError(
            "a model with a GPU never runs as uid 0: set LOCALAI_UID to another user, such as 65532"
        )
    if gpus != "devices":
        count = -1 if gpus == "all" else gpus
        return {"DeviceRequests": [{"Driver": "", "Count": count, "Capabilities": [["gpu"]]}]}, []
    if not host.nodes:
        raise SandboxInputError(
            "/dev/nvidiactl, /dev/nvidia0 and /dev/nvidia-uvm are not all there: load the driver (`nvidia-modprobe -u "
            "-c 0`), or leave out --gpus"
        )
    devices = [{"PathOnHost": node, "PathInContainer": node, "CgroupPermissions": "rw"} for node in host.nodes]
    mounts = [bind_mount(path, f"{LIBRARY_DIRECTORY}/{name}", read_only=True) for name, path in host.libraries]
    return {"Devices": devices}, mounts


def gpu_environment(gpus: Gpus) -> dict[str, str]:
    """What CUDA and NVIDIA's toolkit read."""
    if gpus is None:
        return {}
    if gpus == "devices":
        return {"LD_LIBRARY_PATH": LIBRARY_DIRECTORY}
    return {"NVIDIA_DRIVER_CAPABILITIES": "compute,utility"}


def _libraries(ldconfig: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    try:
        done = subprocess.run(ldconfig, capture_output=True, text=True, check=True, timeout=10)  # noqa: S603  fixed words
    except (OSError, subprocess.SubprocessError):
        return ()
    found: dict[str, str] = {}
    for line in done.stdout.splitlines():
        if "x86-64" in line or "AArch64" in line:
            match = _LIBRARIES.match(line)
            if match is not None:
                found.setdefault(match[1], str(Path(match[2]).resolve()))
    return tuple(sorted(found.items()))
