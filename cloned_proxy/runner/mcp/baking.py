"""Packages that a line would fetch at each start, baked into an image once, so that no registry is allowed at run time.

The newest version is asked of the registry that the user's own npm or pip is set to, here and now; from then on the
image has that one, checked by its integrity.
"""

from __future__ import annotations

from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.images import npm_client, pip_client
from cloned_proxy.runner.images.images import Say
from cloned_proxy.runner.images.tool_image import build_tool_image
from cloned_proxy.runner.images.tool_packages import ToolImage
from cloned_proxy.runner.mcp.packages import Package, pinned


def pin(package: Package) -> Package:
    """The package with an exact version: its own, else the newest there is. Raises FetchError."""
    if package.exact:
        return package
    newest = npm_client.newest if package.kind == "npm" else pip_client.newest
    return pinned(package, newest(str(package)))


def bake(engine: Engine, package: Package, say: Say) -> str:
    """The name of the image with the package in it, built where it is not there. Raises SandboxError."""
    wanted = ToolImage(npm=(str(package),)) if package.kind == "npm" else ToolImage(pypi=(str(package),))
    return build_tool_image(engine, wanted, say)
