"""`image build`: the images of sandboxed tools, from Debian packages."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(help="The images of sandboxed tools.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _group() -> None:
    pass


@app.command("build")
def build(
    *,
    suite: Annotated[
        str | None, typer.Option("--suite", metavar="NAME", help="Release of the packages; default: trixie on Debian.")
    ] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Install the packages anew.")] = False,
) -> None:
    """Build the worker and holder images from Debian packages. Needs mmdebstrap, but no registry."""
    from cloned_proxy.cli.errors import FAILED, CommandError, say
    from cloned_proxy.runner.engine import Engine
    from cloned_proxy.runner.errors import SandboxError
    from cloned_proxy.runner.images import build_images

    try:
        build_images(Engine.connect(), say, suite=suite, rebuild=rebuild)
    except SandboxError as error:
        raise CommandError(str(error), code=FAILED) from error
