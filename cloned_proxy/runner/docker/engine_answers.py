"""What the engine says of itself and of a container, as values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What `doctor` says about the engine."""

    name: str
    """`Docker` or `Podman`."""
    version: str
    api: str
    storage: str
    security: tuple[str, ...]
    runtimes: tuple[str, ...]
    rootless: bool
    cgroup: str

    @property
    def release(self) -> tuple[int, int]:
        """(major, minor); (0, 0) when it cannot be read."""
        major, _, rest = self.version.partition(".")
        minor = rest.partition(".")[0]
        return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else (0, 0)


@dataclass(frozen=True, slots=True)
class ContainerState:
    id: str
    running: bool
    pid: int
    exit_code: int
    oom_killed: bool
