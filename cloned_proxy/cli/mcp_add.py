"""`mcp add`: a server from a package, baked into an image, and what to write into a client's file."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from cloned_proxy.cli.editing import actor
from cloned_proxy.cli.errors import FAILED, CommandError, say
from cloned_proxy.cli.image_build import bring_worker
from cloned_proxy.cli.mcp_bake import baked
from cloned_proxy.cli.output import put
from cloned_proxy.cli.place import policy_to_edit, workspace_to_write
from cloned_proxy.program_name import absolute_words
from cloned_proxy.runner.engine import Engine
from cloned_proxy.runner.errors import SandboxError
from cloned_proxy.runner.mcp.client_file import ClientFile
from cloned_proxy.runner.mcp.packages import Kind, parse_package
from cloned_proxy.runner.mcp.registry import NAME, VARIABLE, Project, Registry, Server
from cloned_proxy.runner.mcp.snippets import snippets
from cloned_proxy.runner.mcp.undo import UndoRecord, WrappedServer
from cloned_proxy.runner.mcp.wrapping import Starter, tool_of
from cloned_proxy.runner.project.place import project_of
from cloned_proxy.store.edit_service import EditService
from cloned_proxy.store.tool_sections import add_tool_sections
from cloned_proxy.store.workspace import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class AddOptions:
    """As typed."""

    name: str
    npm: str | None
    pypi: str | None
    args: tuple[str, ...]
    env: tuple[str, ...]
    write: Path | None
    report: bool
    workspace: Path | None
    policy: Path | None


def add_server(options: AddOptions) -> None:
    """Raises CommandError, PolicyError or StoreError; the client's file is written last."""
    kind, text = _package(options)
    if not NAME.fullmatch(options.name):
        raise CommandError(f"{options.name!r} is no name of a server; use letters, digits and ._-")
    for name in options.env:
        if not VARIABLE.fullmatch(name):
            raise CommandError(f"--env {name!r}: the name of a variable alone; its value stays in the client's file")
    place = workspace_to_write(options.workspace)
    registry, starter = Registry(place), Starter(absolute_words(), place.root)
    if options.name in registry.servers:
        raise CommandError(f"{options.name} is there already (`cloned-proxy mcp list`); choose another name")
    file = ClientFile.load(options.write.expanduser()) if options.write is not None else None
    try:
        package = parse_package(kind, text)
        command, args = package.line(options.args)
        server = Server(
            tool=tool_of(options.name), command=command, args=args, env=list(options.env), project=_access(place)
        )
        with contextlib.closing(Engine.connect()) as engine:
            bring_worker(engine, None)
            server = baked(engine, package, server)
    except ValueError as error:
        raise CommandError(str(error)) from error
    except SandboxError as error:
        raise CommandError(str(error), code=FAILED) from error
    registry.put(options.name, server)
    registry.use_engine(os.environ.get("DOCKER_HOST") or None)
    registry.save()
    service = EditService(place, policy_to_edit(place, options.policy))
    add_tool_sections(service, [server.tool], report=options.report, actor=actor(), why=f"mcp add {options.name}")
    say(f"done: {options.name} runs {server.package} from {server.image}, by the rules of {server.tool}: none yet")
    if file is not None:
        _write(file, place, options, starter)
        return
    for clients, snippet in snippets(options.name, starter, list(options.env)):
        say(f"for {clients}:")
        put(snippet)


def _package(options: AddOptions) -> tuple[Kind, str]:
    if options.npm is not None and options.pypi is None:
        return "npm", options.npm
    if options.pypi is not None and options.npm is None:
        return "pypi", options.pypi
    raise CommandError("name one package: --npm @scope/server@1.2.3, or --pypi mcp-server-time==2026.1.0")


def _access(place: Workspace) -> Project:
    try:
        project_of(place.root)
    except SandboxError:
        return "none"
    return "ro"


def _write(file: ClientFile, place: Workspace, options: AddOptions, starter: Starter) -> None:
    """The entry in the client's file, in a way that `mcp unwrap` takes back."""
    entry: dict[str, object] = {"command": starter.words[0], "args": starter.args(options.name)}
    if options.env:
        entry["env"] = dict.fromkeys(options.env, "")
        say(f"fill in {', '.join(options.env)} in {file.path}")
    section = file.section()
    if options.name in (file.document_at(section) or {}):
        raise CommandError(f"{file.path} has a server {options.name} already; choose another name")
    file.set((*section, options.name), entry)
    undo = UndoRecord(place)
    undo.remember(file, [WrappedServer(options.name, tuple(file.changes))])
    put(file.diff().rstrip("\n"))
    undo.save()
    file.save()
    say(f"done: {file.path} starts it; `cloned-proxy mcp unwrap {options.write}` takes that back")
