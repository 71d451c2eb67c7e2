"""What `mcp wrap` and `mcp add` say while a package is baked into an image."""

from __future__ import annotations

import contextlib

from cloned_proxy.cli.commands.images.image_build import bring_worker
from cloned_proxy.cli.show.errors import say
from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.mcp.baking import bake, pin
from cloned_proxy.runner.mcp.packages import Package
from cloned_proxy.runner.mcp.registry import McpServer
from cloned_proxy.runner.mcp.wrapping import Plan
from cloned_proxy.runner.values.errors import ImageMissingError, SandboxError


def bake_plan(plan: Plan, *, dry_run: bool) -> bool:
    """Bakes what the lines of a plan would fetch; whether all of it could be. What could not is left alone."""
    wanted = [each for each in plan.wrapped if each.package is not None]
    if not wanted:
        return True
    if dry_run:
        for each in wanted:
            say(f"{each.name}: would be an image with {each.package} in it, so that it fetches nothing when it starts")
        return True
    with contextlib.closing(Engine.connect()) as engine:
        bring_worker(engine, None)
        for each in wanted:
            if each.package is None or _has(engine, each.server.image):
                continue
            try:
                each.server = baked(engine, each.package, each.server)
            except SandboxError as error:
                plan.wrapped.remove(each)
                plan.left.append((each.entry, f"{each.package} cannot be baked into an image: {error}"))
    return all(each in plan.wrapped for each in wanted)


def baked(engine: Engine, package: Package, server: McpServer) -> McpServer:
    """The server, in an image with its package. Raises SandboxError."""
    exact = pin(package)
    image = bake(engine, exact, say)
    command, args = server.command, server.args
    if package.version is not None and not package.exact:  # a range; the image knows the one version
        args = [str(exact) if word == str(package) else word for word in args]
    return server.model_copy(
        update={"package": f"{exact.kind}:{exact}", "image": image, "command": command, "args": args}
    )


def _has(engine: Engine, image: str | None) -> bool:
    if image is None:
        return False
    try:
        engine.image(image)
    except ImageMissingError:
        return False
    return True
