"""`image build|list`: the images of sandboxed tools, and images with packages baked in."""

from __future__ import annotations

from typing import Annotated

import typer

from cloned_proxy.cli.place.options import JsonOption, WorkspaceOption

app = typer.Typer(help="The images of sandboxed tools.", no_args_is_help=True, rich_markup_mode=None)


@app.command("build")
def build(
    *,
    with_parts: Annotated[
        str | None,
        typer.Option(
            "--with",
            metavar="PART,…",
            help="Parts of the worker: node, uv, git, ssh, netcat, ripgrep, jq or none; default: all.",
        ),
    ] = None,
    npm: Annotated[
        list[str] | None, typer.Option("--npm", metavar="P@V", help="Bake in a package of npm; repeatable.")
    ] = None,
    pypi: Annotated[
        list[str] | None, typer.Option("--pypi", metavar="P==V", help="Bake in a package of PyPI; repeatable.")
    ] = None,
    tag: Annotated[
        str | None, typer.Option("--tag", metavar="NAME", help="Name; default: cloned-tool-PACKAGE:VERSION.")
    ] = None,
    tool: Annotated[
        str | None, typer.Option("--tool", metavar="TOOL", help="Make it this tool's image in config.yaml.")
    ] = None,
    scripts: Annotated[
        bool, typer.Option("--scripts", help="Run install scripts of npm packages, without a network.")
    ] = False,
    suite: Annotated[
        str | None, typer.Option("--suite", metavar="NAME", help="Release of the packages; default: trixie on Debian.")
    ] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Install or resolve everything anew.")] = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Build the worker and holder images, or one with packages baked in.

    The first build takes a minute or two, on Debian packages (mmdebstrap) and wheels of PyPI. Packages are fetched here
    with your own npm and pip settings and checked against their integrity; a tool with such an image needs no registry.
    """
    from cloned_proxy.cli.commands.images.image_build import BuildOptions, build_image

    options = BuildOptions(
        parts=with_parts,
        npm=tuple(npm or ()),
        pypi=tuple(pypi or ()),
        tag=tag,
        tool=tool,
        scripts=scripts,
        suite=suite,
        rebuild=rebuild,
        workspace=workspace,
    )
    build_image(options)


@app.command("list")
def list_images(*, as_json: JsonOption = False) -> None:
    """Print the worker and what was built on it: size, Node, packages."""
    from cloned_proxy.cli.commands.images.image_build import show_images

    show_images(as_json=as_json)
