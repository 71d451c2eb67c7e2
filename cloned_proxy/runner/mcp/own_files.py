"""Where a server will fail to write: told when it is wrapped, not by its first failing call. Reads no file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from cloned_proxy.runner.mcp.packages import Package
from cloned_proxy.runner.values.spec import HOME

_KEEPS_BESIDE_ITSELF: Final = {"@modelcontextprotocol/server-memory": "MEMORY_FILE_PATH"}
"""Packages whose server writes into its own directory, which no tool can, unless this variable names a file."""
_NOT_THE_HOSTS: Final = (HOME, "/tmp", "/sandbox", "/dev", "/bin", "/etc", "/lib", "/usr")  # noqa: S108
"""Where a sandbox has directories of its own: a path there means another file than on this machine."""


def variable_of_its_file(package: Package) -> str | None:
    """The variable without which this package's server writes into its own directory; None for any other one."""
    return _KEEPS_BESIDE_ITSELF.get(package.name) if package.kind == "npm" else None


def about_its_files(package: Package | None, env: Mapping[str, Any], project: Path) -> Iterator[str]:
    """A line for each file that the server may want to write and cannot; `env` is what its client gives to it."""
    wanted = variable_of_its_file(package) if package is not None else None
    if wanted is not None and not env.get(wanted):
        yield (
            f"it keeps its file beside its program, which is read-only: put {wanted} with a path such as "
            f"{HOME}/memory.jsonl into its `env`, and wrap again"
        )
    for name, value in env.items():
        path = Path(str(value))
        if not path.is_absolute() or not path.parent.is_dir() or path.parent == Path("/"):
            continue
        if path.is_relative_to(project):
            yield f"the path in {name} is read-only to it (`project: rw` in mcp.yaml lets it write)"
        elif not any(path.is_relative_to(place) for place in _NOT_THE_HOSTS):
            yield f"the path in {name} is not shown to it: `mounts` in mcp.yaml shows one, {HOME} is its own to write"
