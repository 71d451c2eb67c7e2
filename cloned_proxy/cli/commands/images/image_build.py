"""What `image build` and `image list` do."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloned_proxy.cli.place.place import workspace_to_write
from cloned_proxy.cli.show.errors import CommandError, say
from cloned_proxy.cli.show.output import put, put_json
from cloned_proxy.cli.show.tables import show_table
from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.images.image_check import PARTS, check_current
from cloned_proxy.runner.images.image_list import BuiltImage, built_images
from cloned_proxy.runner.images.images import build_images
from cloned_proxy.runner.images.tool_image import build_tool_image
from cloned_proxy.runner.images.tool_packages import ToolImage
from cloned_proxy.runner.images.tool_program import PYTHON_IMAGE
from cloned_proxy.runner.values.errors import ImageMissingError
from cloned_proxy.runner.values.spec import MIB, check_tool_id

_NONE: Final = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """The options of `image build`, as they were typed."""

    parts: str | None
    npm: tuple[str, ...]
    pypi: tuple[str, ...]
    tag: str | None
    tool: str | None
    scripts: bool
    suite: str | None
    rebuild: bool
    workspace: Path | None


def build_image(options: BuildOptions) -> None:
    """Builds the worker and holder, or a tool's image, whose name is then on stdout.

    Raises CommandError and SandboxError.
    """
    parts = _parts(options.parts)
    wanted = _wanted(options, parts)
    if options.tool is not None:
        check_tool_id(options.tool)
        workspace_to_write(options.workspace)  # a workspace that is somebody else's is told before minutes of work
    with contextlib.closing(Engine.connect()) as engine:
        if wanted is None:
            chosen = tuple(PARTS) if parts is None else parts
            build_images(engine, say, suite=options.suite, rebuild=options.rebuild, parts=chosen)
            return
        bring_worker(engine, options.suite)
        name = build_tool_image(engine, wanted, say, renew=options.rebuild)
    if options.tool is not None:
        _use_for(options.workspace, options.tool, name)
    else:
        say(f"use it with `cloned-proxy exec TOOL --image {name} -- CMD`, or write `sandbox: {{images: {{TOOL: …}}}}`")
    put(name)


def _wanted(options: BuildOptions, parts: Sequence[str] | None) -> ToolImage | None:
    if not (options.npm or options.pypi):
        if options.tag or options.tool or options.scripts:
            raise CommandError("--tag, --tool and --scripts go with --npm or --pypi: the worker's own name is fixed")
        return None
    if parts is not None and set(parts) - {"node"}:
        raise CommandError("with --npm or --pypi only `--with node` says something: the rest is as in the worker")
    return ToolImage(
        npm=options.npm, pypi=options.pypi, tag=options.tag, scripts=options.scripts, with_node="node" in (parts or ())
    )


def _parts(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    named = [] if text == _NONE else [part for part in text.split(",") if part]
    if wrong := [part for part in named if part not in PARTS]:
        raise CommandError(f"--with {wrong[0]}: not a part of the worker; there are {', '.join(PARTS)}, or {_NONE}")
    return tuple(part for part in PARTS if part in named)


def bring_worker(engine: Engine, suite: str | None) -> None:
    """Builds the worker where it is not there, or of another version. Raises SandboxError."""
    try:
        check_current(engine, PYTHON_IMAGE)
    except ImageMissingError as error:
        say(f"{str(error).partition(':')[0]}; it is built first (a minute or two)")
        build_images(engine, say, suite=suite)


def _use_for(directory: Path | None, tool: str, image: str) -> None:
    from cloned_proxy.store.settings.config_edit import set_tool_image

    place = workspace_to_write(directory)
    set_tool_image(place.config_file, tool, image)
    say(f"{tool} runs in {image} from now on ({place.config_file})")


def show_images(*, as_json: bool) -> None:
    """One line an image. Raises SandboxError."""
    with contextlib.closing(Engine.connect()) as engine:
        found = list(built_images(engine))
    if as_json:
        put_json([_data(image) for image in found])
    elif found:
        show_table([_row(image) for image in found], ("IMAGE", "SIZE", "NODE", "PACKAGES", "STATE"))
    else:
        say("no image yet; `cloned-proxy image build` makes them")


def _row(image: BuiltImage) -> tuple[str, ...]:
    state = "current" if image.current else "of another version of this program; build it again"
    packages = ", ".join(image.packages) or "-"
    return (image.name, f"{image.size / MIB:.0f} MiB", image.node or "-", packages, state)


def _data(image: BuiltImage) -> dict[str, object]:
    return {
        "image": image.name,
        "bytes": image.size,
        "node": image.node,
        "packages": list(image.packages),
        "locked": image.locked,
        "current": image.current,
    }
