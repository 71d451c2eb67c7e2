"""How the options of a sandbox are spelled on a command line; their values have their places in `exec_options`.

`exec` and whatever else starts a command in a sandbox share them: an option is spelled here once.
"""

from __future__ import annotations

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
WritableOption = Annotated[
    list[str] | None,
    typer.Option("--writable", metavar="PATH", help="With rw: may be written, too, such as .vscode."),
]
DiffOption = Annotated[
    bool, typer.Option("--diff", help="Print on stderr, at the end, what the run changed in the project.")
]
UserOption = Annotated[
    Literal["me"] | None, typer.Option("--user", metavar="me", help="Your own user id; default: the image's user.")
]
