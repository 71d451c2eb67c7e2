"""The options by which a command line describes a sandbox: their spelling, and their values in named groups.

`exec` and whatever else starts a command in a sandbox share them. An option is spelled here once; its value has its
place in the group that it belongs to; `exec_job` says what it means for the run.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

ToolArgument = Annotated[str, typer.Argument(metavar="TOOL", help="Tool id: its rules apply.")]
InteractiveOption = Annotated[
    bool, typer.Option("--interactive", "-i", help="Pass stdin on: always so; taken as docker's word for it.")
]
TtyOption = Annotated[bool, typer.Option("--tty", "-t", help="A terminal inside, for shells, editors, agents.")]
ImageOption = Annotated[str | None, typer.Option("--image", metavar="I", help="Image; default: the worker's.")]
NetworkOption = Annotated[
    str | None,
    typer.Option(
        "--network", metavar="N", envvar="CLONED_SANDBOX_NETWORK", help="Named network: weaker than none (default)."
    ),
]
HomeOption = Annotated[bool, typer.Option("--home", help="Keep the tool's home for its next run.")]
EnvOption = Annotated[
    list[str] | None, typer.Option("--env", metavar="NAME[=VALUE]", help="Set a variable, or take yours over.")
]
EnvFileOption = Annotated[
    list[Path] | None, typer.Option("--env-file", metavar="FILE", help="Variables, one a line, as docker has it.")
]
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
ProjectOption = Annotated[
    Literal["rw", "ro", "none"],
    typer.Option("--project", metavar="rw|ro|none", help="Its files, where they are; rw: as your own user."),
]
WorkdirOption = Annotated[
    str | None, typer.Option("--workdir", metavar="DIR", help="Begin there; default: here, if that is in the project.")
]
UserOption = Annotated[
    Literal["me"] | None, typer.Option("--user", metavar="me", help="Your own user id; default: the image's user.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileOptions:
    """What of the host's files the command sees, and as whom."""

    mounts: tuple[str, ...] = ()
    """`SRC:DST[:rw]`, as typed."""
    project: Literal["rw", "ro", "none"] = "ro"
    workdir: str | None = None
    user: Literal["me"] | None = None
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
