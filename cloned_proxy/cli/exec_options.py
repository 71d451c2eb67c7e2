"""The options by which a command line describes a sandbox: their spelling, and their values in named groups.

`exec` and whatever else starts a command in a sandbox share them. An option is spelled here once; its value has its
place in the group that it belongs to; `exec_job` says what it means for the run.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

ToolArgument = Annotated[str, typer.Argument(metavar="TOOL", help="Tool id: its rules apply.")]
ImageOption = Annotated[str | None, typer.Option("--image", metavar="I", help="Image; default: the worker's.")]
NetworkOption = Annotated[
    str | None,
    typer.Option(
        "--network", metavar="N", envvar="CLONED_SANDBOX_NETWORK", help="Named network: weaker than none (default)."
    ),
]
EnvOption = Annotated[list[str] | None, typer.Option("--env", metavar="NAME=VALUE", help="Set a variable.")]
MountOption = Annotated[
    list[str] | None, typer.Option("--mount", metavar="SRC:DST[:rw]", help="Show a file or directory, read-only.")
]
TimeoutOption = Annotated[
    float | None, typer.Option("--timeout", metavar="SECONDS", min=0.1, help="Kill it after; exit code 124.")
]
MemoryOption = Annotated[
    str | None, typer.Option("--memory", metavar="SIZE", help="Such as 2g; default: 512m, or config.yaml's.")
]
CpusOption = Annotated[
    float | None, typer.Option("--cpus", metavar="N", min=0.01, help="Default: 1, or config.yaml's.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileOptions:
    """What of the host's files the command sees."""

    mounts: tuple[str, ...] = ()
    """`SRC:DST[:rw]`, as typed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentOptions:
    """Which variables the command finds besides the sandbox's own."""

    variables: tuple[str, ...] = ()
    """`NAME=VALUE`, as typed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitOptions:
    """How much the command may use. None: as config.yaml says."""

    timeout: float | None = None
    """Seconds; None: no limit."""
    memory: str | None = None
    cpus: float | None = None


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
    policy: Path | None = None
    workspace: Path | None = None
