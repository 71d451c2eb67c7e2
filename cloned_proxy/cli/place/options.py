"""Options that several commands share, spelled and explained once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

WorkspaceOption = Annotated[
    Path | None,
    typer.Option(
        "--workspace",
        envvar="CLONED_WORKSPACE",
        metavar="DIR",
        help="Workspace directory; default: the nearest .cloned/ upwards, else ./.cloned.",
    ),
]
PolicyOption = Annotated[
    Path | None,
    typer.Option(
        "--policy", envvar="CLONED_POLICY", metavar="FILE", help="Policy file; default: policy.yaml in the workspace."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
ToolOption = Annotated[
    str | None, typer.Option("--tool", metavar="TOOL", help="Tool id, such as cloned.mcp.web.search@v1.")
]
PresetOption = Annotated[
    list[str] | None,
    typer.Option("--preset", metavar="NAME", help="A named set of hosts (`preset list`); repeatable, stands alone."),
]
ReasonOption = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; goes into the file and the log.")]
UpdateTestsOption = Annotated[
    bool, typer.Option("--update-tests", help="Take out of the policy's `tests:` what the edit breaks.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print the change as a diff and make none.")]
