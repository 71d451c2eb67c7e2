"""The values of the options by which a command line describes a sandbox, in named groups.

`exec_words` has their spelling, and `exec_job` says what they mean for the run.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class FileOptions:
    """What of the host's files the command sees, and as whom."""

    mounts: tuple[str, ...] = ()
    """`SRC:DST[:rw]`, as typed."""
    project: Literal["rw", "ro", "none"] = "ro"
    workdir: str | None = None
    writable: tuple[str, ...] = ()
    user: Literal["me"] | None = None
    diff: bool = False
    home: bool = False
    """Whether the tool's home is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentOptions:
    """Which variables the command finds besides the sandbox's own."""

    variables: tuple[str, ...] = ()
    """`NAME=VALUE`, or `NAME` for this process's own value, as typed."""
    files: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitOptions:
    """How much the command may use. None: as config.yaml says."""

    timeout: float | None = None
    """Seconds; None: no limit."""
    memory: str | None = None
    cpus: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TerminalOptions:
    """How the command is connected to whoever typed it."""

    tty: bool = False
    """A terminal; else three streams."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecOptions:
    """One command in a sandbox, as typed and not yet checked."""

    tool: str
    command: tuple[str, ...]
    image: str | None = None
    network: str | None = None
    files: FileOptions = FileOptions()
    environment: EnvironmentOptions = EnvironmentOptions()
    limits: LimitOptions = LimitOptions()
    terminal: TerminalOptions = TerminalOptions()
    policy: Path | None = None
    workspace: Path | None = None
