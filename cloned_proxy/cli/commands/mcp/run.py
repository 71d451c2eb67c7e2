"""`mcp run`: from a server of mcp.yaml to a command in the sandbox, with the client's streams on both ends."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cloned_proxy.cli.commands.sandbox.exec_options import EnvironmentOptions, ExecOptions, FileOptions, LimitOptions
from cloned_proxy.cli.commands.sandbox.exec_run import run_command
from cloned_proxy.cli.place.context import existing_workspace
from cloned_proxy.cli.show.errors import CommandError, say
from cloned_proxy.runner.mcp.starting import WORD_VARIABLE, start_of

if TYPE_CHECKING:
    from cloned_proxy.runner.mcp.registry import McpServer
    from cloned_proxy.store.workspaces.workspace import Workspace

_WORD: Final = re.compile(rf"\$\{{({WORD_VARIABLE}[0-9]+)\}}")


def run_server(name: str, *, workspace: Path | None, policy: Path | None) -> int:
    """Runs it and returns its exit code. Raises CommandError or StoreError."""
    place = existing_workspace(workspace)
    start = start_of(place, name)
    server = start.server
    if start.engine is not None:
        os.environ.setdefault("DOCKER_HOST", start.engine)
    missing = [each for each in server.env if each not in os.environ]
    if missing:
        say(f"cloned-proxy: {name} is started without {', '.join(missing)}: not among the variables of its client")
    options = options_of(server, place, os.environ, policy=policy.absolute() if policy is not None else None)
    os.chdir(place.root.parent)  # clients start servers anywhere, which means nothing to them
    return run_command(options)


def options_of(
    server: McpServer, place: Workspace, environment: Mapping[str, str], *, policy: Path | None = None
) -> ExecOptions:
    """The server as `exec` would be asked for it. Raises CommandError for a word that the client did not fill in."""
    project = place.root.parent
    words = [_filled(word, environment) for word in (server.command, *server.args)]
    begins = (project / (server.cwd or "")).resolve()
    inside = server.project != "none" and begins.is_relative_to(project.resolve())
    return ExecOptions(
        tool=server.tool,
        command=tuple(_resolved(word, project) for word in words),
        image=server.image,
        files=FileOptions(
            mounts=tuple(server.mounts),
            project=server.project,
            workdir=str(begins) if inside else None,
            home=server.home,
        ),
        environment=EnvironmentOptions(variables=tuple(name for name in server.env if name in environment)),
        limits=LimitOptions(memory=server.memory, cpus=server.cpus),
        policy=policy,
        workspace=place.root,
    )


def _filled(word: str, environment: Mapping[str, str]) -> str:
    def value(found: re.Match[str]) -> str:
        if found[1] not in environment:
            raise CommandError(f"{found[1]} is missing: the client that starts the server sets it; start it from there")
        return environment[found[1]]

    return _WORD.sub(value, word)


def _resolved(word: str, project: Path) -> str:
    """A path of the project as the sandbox has it, where links on the way to it are not known."""
    if word == str(project) or word.startswith(f"{project}{os.sep}"):
        return f"{project.resolve()}{word.removeprefix(str(project))}"
    return word
