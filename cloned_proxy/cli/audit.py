"""`audit verify`: whether anybody touched the log."""

from __future__ import annotations

import typer

from cloned_proxy.cli.errors import FAILED, say
from cloned_proxy.cli.options import JsonOption, WorkspaceOption

app = typer.Typer(help="Check the log itself.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Check the log itself."""


