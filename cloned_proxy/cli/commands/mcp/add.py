"""`mcp add`: a server from a package, baked into an image, and what to write into a client's file."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from cloned_proxy.cli.commands.images.image_build import bring_worker
from cloned_proxy.cli.commands.mcp.bake import baked
from cloned_proxy.cli.editing.editing import actor
from cloned_proxy.cli.place.place import policy_to_edit, workspace_to_write
from cloned_proxy.cli.show.errors import CommandError, say
from cloned_proxy.cli.show.output import put
from cloned_proxy.program_name import absolute_words
from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.mcp.client_file import ClientFile
from cloned_proxy.runner.mcp.own_files import variable_of_its_file
from cloned_proxy.runner.mcp.packages import Kind, parse_package
from cloned_proxy.runner.mcp.registry import NAME, VARIABLE, McpServer, Project, ServerRegistry
from cloned_proxy.runner.mcp.snippets import snippets
from cloned_proxy.runner.mcp.undo import UndoRecord, WrappedServer
from cloned_proxy.runner.mcp.wrapping import ServerStarter, tool_of, why_not_taken_over
from cloned_proxy.runner.project.place import project_of
from cloned_proxy.runner.values.errors import SandboxError
from cloned_proxy.runner.values.spec import HOME
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.policyfile.edit_service import EditService
from cloned_proxy.store.policyfile.tool_sections import add_tool_sections
from cloned_proxy.store.workspaces.workspace import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class AddOptions:
    """The options of `mcp add`, as they were typed."""

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
    """Raises CommandError, PolicyError or StoreError; the client's file is tried first and written last."""
    kind, text = _package(options)
    if not NAME.fullmatch(options.name):
        raise CommandError(f"{options.name!r} is no name of a server; use letters, digits and ._-")
    for name in options.env:
        if not VARIABLE.fullmatch(name):
            word = name.partition("=")[0]  # behind it there may be the secret
            raise CommandError(f"--env {word!r}: the name of a variable alone; its value stays in the client's file")
        if (why := why_not_taken_over(name)) is not None:
            raise CommandError(f"--env {name}: {why}, so no server is given it; leave it out")
    place = workspace_to_write(options.workspace)
    registry, starter = ServerRegistry(place), ServerStarter(absolute_words(), place.root)
    if options.name in registry.servers:
        raise CommandError(f"{options.name} is there already (`cloned-proxy mcp list`); choose another name")
    file = _with_entry(options.write.expanduser(), options, starter) if options.write is not None else None
    service = EditService(place, policy_to_edit(place, options.policy))
    tool = tool_of(options.name)
    add_tool_sections(service, [tool], report=options.report, actor=actor(), why="", dry_run=True)
    _warn_of_its_file(options, kind, text)
    server = _baked(options, place, kind, text)
    registry.put(options.name, server)
    registry.use_engine(os.environ.get("DOCKER_HOST") or None)
    if file is not None:
        file.check_unchanged()  # baking took its time
    add_tool_sections(service, [tool], report=options.report, actor=actor(), why=f"mcp add {options.name}")
    registry.save()
    if file is not None:
        _write(file, place, options)
    say(f"done: {options.name} runs {server.package} from {server.image}, by the rules of {server.tool}: none yet")
    if file is not None:
        say(f"done: {file.path} starts it; `cloned-proxy mcp unwrap {options.write}` takes that back")
        return
    for clients, snippet in snippets(options.name, starter, list(options.env)):
        say(f"for {clients}:")
        put(snippet)


def _warn_of_its_file(options: AddOptions, kind: Kind, text: str) -> None:
    with contextlib.suppress(ValueError):  # a package that cannot be read is told by whoever bakes it
        wanted = variable_of_its_file(parse_package(kind, text))
        if wanted is not None and wanted not in options.env:
            say(
                f"{options.name} keeps its file beside its program, which is read-only: name one below {HOME} by "
                f"`--env {wanted}` and in the client's file"
            )


def _baked(options: AddOptions, place: Workspace, kind: Kind, text: str) -> McpServer:
    """Raises CommandError and SandboxError."""
    try:
        package = parse_package(kind, text)
        command, args = package.line(options.args)
        server = McpServer(
            tool=tool_of(options.name), command=command, args=args, env=list(options.env), project=_access(place)
        )
        with contextlib.closing(Engine.connect()) as engine:
            bring_worker(engine, None)
            return baked(engine, package, server)
    except ValueError as error:
        raise CommandError(str(error)) from error


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


def _with_entry(path: Path, options: AddOptions, starter: ServerStarter) -> ClientFile:
    """The client's file with the entry in its text, not written yet. Raises StoreError where it cannot take one."""
    file = ClientFile.load(path, create=True)
    file.check_writable()
    entry: dict[str, object] = {"command": starter.words[0], "args": starter.args(options.name)}
    if options.env:
        entry["env"] = dict.fromkeys(options.env, "")
    made = file.add_server(options.name, entry)
    if file.created:
        say(f"{file.path} is not there yet: it is made, with {file.section()[-1]}")
    elif made:
        say(f"{file.path} has no servers yet: it is given {file.section()[-1]}")
    return file


def _write(file: ClientFile, place: Workspace, options: AddOptions) -> None:
    """Writes the entry as `mcp unwrap` takes it back. Raises StoreError; then the server is not known either."""
    undo = UndoRecord(place)
    before = dict(undo.files)
    try:
        undo.remember(file, [WrappedServer(options.name, tuple(file.changes))], created=file.created)
        undo.save()
        file.save()
    except StoreError:
        undo.files = before
        undo.save()
        registry = ServerRegistry(place)
        registry.drop(options.name)
        registry.save()
        raise
    put(file.diff().rstrip("\n"))
    if options.env:
        say(f"fill in {', '.join(options.env)} in {file.path}")
