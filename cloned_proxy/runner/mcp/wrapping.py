"""`mcp wrap`: which servers of a client's file are started in the sandbox from now on, and how. Writes nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, Final

from cloned_proxy.policy.secrets.redact import hide_arguments
from cloned_proxy.runner.mcp.client_file import ClientFile, ServerEntry
from cloned_proxy.runner.mcp.own_files import about_its_files
from cloned_proxy.runner.mcp.packages import Package, package_of
from cloned_proxy.runner.mcp.registry import NAME, VARIABLE, McpServer, Project, ServerRegistry
from cloned_proxy.runner.mcp.starting import WORD_VARIABLE
from cloned_proxy.runner.project.place import project_of
from cloned_proxy.runner.project.view import check_shown
from cloned_proxy.runner.values.environment import RESERVED
from cloned_proxy.runner.values.errors import SandboxError
from cloned_proxy.runner.values.spec import Mount
from cloned_proxy.store.files.errors import StoreError

_FILLED_IN: Final = re.compile(r"\$\{[^{}]+\}")
_FILLED_IN_BY_GEMINI: Final = re.compile(r"\$\{[^{}]+\}|\$[A-Za-z_][A-Za-z0-9_]*")
_HOSTS_OWN: Final = frozenset({"PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "LD_PRELOAD", "VIRTUAL_ENV", "SHELL"})
"""Variables that say where things are on the host; in the sandbox they are elsewhere."""
_INTERPRETERS: Final = re.compile(r"node|npx|uvx?|python3?|deno|bunx?|pnpm")
_ENGINES: Final = frozenset({"docker", "podman", "nerdctl"})
_SYSTEM: Final = frozenset(
    map(Path, ("/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/opt", "/proc", "/root", "/run", "/sbin", "/sys",
               "/usr", "/var"))
)  # fmt: skip


@dataclass(slots=True)
class Wrapped:
    """One server that is started through us from now on."""

    entry: ServerEntry
    name: str
    server: McpServer
    words: Mapping[str, str]
    """Variables that the client fills in: what stood in the line before."""
    package: Package | None
    notes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Plan:
    wrapped: list[Wrapped] = field(default_factory=list)
    already: list[tuple[ServerEntry, str]] = field(default_factory=list)
    """Entries that start through us, with the names of their servers."""
    left: list[tuple[ServerEntry, str]] = field(default_factory=list)
    """Entries that stay as they are, and why."""


@dataclass(frozen=True, slots=True)
class ServerStarter:
    """How a client starts us: the program's own words, and the workspace."""

    words: tuple[str, ...]
    workspace: Path

    def args(self, name: str) -> list[str]:
        return [*self.words[1:], "mcp", "run", name, "--workspace", str(self.workspace)]

    def started_by(self, body: Mapping[str, Any]) -> tuple[str, str] | None:
        """The server's name and the workspace, if an entry starts us, from wherever we are installed."""
        args = body.get("args")
        match args[-5:] if isinstance(args, list) else []:
            case ["mcp", "run", str(name), "--workspace", str(workspace)]:
                return name, workspace
            case _:
                return None


def make_plan(file: ClientFile, registry: ServerRegistry, starter: ServerStarter) -> Plan:
    """What can be wrapped, under which names. Raises StoreError."""
    plan = Plan()
    project = starter.workspace.parent
    taken: dict[str, McpServer] = dict(registry.servers)
    for entry in file.entries():
        if (ours := starter.started_by(entry.body)) is not None:
            _look_again(plan, entry, *ours, registry=registry, starter=starter)
        elif why := _why_left(entry, project):
            plan.left.append((entry, why))
        else:
            wrapped = _wrap(file, entry, starter.workspace)
            wrapped.name, wrapped.server = _named(entry, wrapped.server, taken)
            taken[wrapped.name] = wrapped.server
            plan.wrapped.append(wrapped)
    return plan


def apply_plan(plan: Plan, file: ClientFile, registry: ServerRegistry, starter: ServerStarter) -> None:
    """Puts the plan into the file's text and the registry; neither is written. Raises StoreError."""
    for each in plan.wrapped:
        place = each.entry.place
        file.set((*place, "command"), starter.words[0])
        file.set((*place, "args"), starter.args(each.name), behind="command")
        if each.words and not isinstance(each.entry.body.get("env"), dict):
            file.set((*place, "env"), dict(each.words), behind="args")
        else:
            for name, word in each.words.items():
                file.set((*place, "env", name), word)
        registry.put(each.name, each.server)


def variables_of(entry: ServerEntry, base: Path) -> tuple[list[str], list[str]]:
    """The names of the variables that a client gives to a server, and what to say of those that are not taken over."""
    env, passed = entry.body.get("env"), entry.body.get("env_vars")
    names = [*(env if isinstance(env, dict) else ()), *(passed if isinstance(passed, list) else ())]
    names += _names_in(entry.body.get("envFile"), base)
    names = [name for name in dict.fromkeys(map(str, names)) if not name.startswith(WORD_VARIABLE)]
    refused = {name: why for name in names if (why := why_not_taken_over(name)) is not None}
    return [name for name in names if name not in refused], [f"{why}; not taken over" for why in refused.values()]


def why_not_taken_over(name: str) -> str | None:
    """Why a variable of a client cannot be handed to a server in the sandbox; None for one that can."""
    if not VARIABLE.fullmatch(name):
        return f"{name!r} is no name of a variable"
    if name.upper() in RESERVED or name.startswith("CLONED_"):
        return f"{name} is the sandbox's own to set"
    if name in _HOSTS_OWN:
        return f"{name} says where things are on this machine"
    return None


def tool_of(name: str) -> str:
    """The identity of a server of this name."""
    return f"mcp.{name}@v1"


def _look_again(
    plan: Plan, entry: ServerEntry, name: str, workspace: str, *, registry: ServerRegistry, starter: ServerStarter
) -> None:
    """An entry that starts us already: names of variables that came since are taken over, too."""
    if Path(workspace) != starter.workspace:
        plan.left.append((entry, f"starts in the sandbox of {workspace} already"))
        return
    known = registry.servers.get(name)
    if known is None:
        plan.left.append((entry, f"starts `mcp run {name}`, and {registry.path} has no such server; unwrap the file"))
        return
    names, _ = variables_of(entry, starter.workspace.parent)
    registry.put(name, known.model_copy(update={"env": list(dict.fromkeys((*known.env, *names)))}))
    plan.already.append((entry, name))


def _why_left(entry: ServerEntry, project: Path) -> str:
    """Why an entry stays as it is; "" for one that can be wrapped."""
    body = entry.body
    command, args = body.get("command"), body.get("args", [])
    if entry.project and Path(entry.project) != project:
        return f"belongs to {entry.project}; wrap it with that project's workspace"
    if command is None:
        url = body.get("url") or body.get("httpUrl") or body.get("serverUrl")
        return "is called by its URL; the client starts nothing" if url else "has no command"
    if not isinstance(command, str) or not command or not _texts(args):
        return "has no command with a list of words; put it right by hand"
    if PurePath(command).name in _ENGINES:
        return "starts a container by itself, which no sandbox of ours could hold; name its image by `mcp add`"
    return ""


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _wrap(file: ClientFile, entry: ServerEntry, workspace: Path) -> Wrapped:
    filled_in = _FILLED_IN_BY_GEMINI if file.path.parent.name == ".gemini" else _FILLED_IN
    line, words = [entry.body["command"], *entry.body.get("args", [])], dict[str, str]()
    for position, word in enumerate(line):
        if file.path.suffix != ".toml" and filled_in.search(word):
            name = f"{WORD_VARIABLE}{position}"
            words[name], line[position] = word, f"${{{name}}}"
    names, notes = variables_of(entry, workspace.parent)
    command, args, package = line[0], line[1:], None
    if (found := package_of(command, args)) is not None:
        package, rest = found
        command, args = package.line(rest)
    elif PurePath(command).is_absolute() and _INTERPRETERS.fullmatch(PurePath(command).name):
        notes.append(f"{command} is the image's own {PurePath(command).name} in the sandbox")
        command = PurePath(command).name
    if hide_arguments(args) != tuple(args):
        notes.append(
            "what looks like a key stands in its `args`, and so in mcp.yaml: unwrap, put it into `env`, wrap again"
        )
    mounts = _shown(args, workspace, notes)
    env = entry.body.get("env")
    taken_over = {name: env[name] for name in names if name in env} if isinstance(env, dict) else {}
    notes += about_its_files(package, taken_over, workspace.parent)
    cwd = entry.body.get("cwd")
    server = McpServer(
        tool=tool_of("server"),
        command=command,
        args=args,
        cwd=cwd if isinstance(cwd, str) else None,
        env=names,
        mounts=mounts,
        project=_access(workspace, notes),
    )
    return Wrapped(entry, "", server, words, package, notes)


def _shown(args: Iterable[str], workspace: Path, notes: list[str]) -> list[str]:
    """Files and directories of this machine that the line names: the server is there to work with them."""
    found: list[str] = []
    for word in args:
        path = Path(word)
        if not path.is_absolute() or path.is_relative_to(workspace.parent) or not path.exists():
            continue
        if path in _SYSTEM or path == Path.home() or ":" in word:
            notes.append(f"{word} is not shown to it: too wide; `mounts` in mcp.yaml can name a part of it")
            continue
        try:
            check_shown(Mount(word, word), workspace)
        except SandboxError as error:
            notes.append(f"{word} is not shown to it: {error}")
            continue
        found.append(f"{word}:{word}")
        notes.append(f"{word} is shown to it, read-only (`mounts` in mcp.yaml; `:rw` behind it lets it write)")
    return found


def _access(workspace: Path, notes: list[str]) -> Project:
    """Read-only; nothing where the workspace lies in a home, which is never shown whole."""
    try:
        project_of(workspace)
    except SandboxError:
        notes.append(f"{workspace.parent} is not shown to it: no project (`mounts` in mcp.yaml shows a directory)")
        return "none"
    return "ro"


def _names_in(file: object, base: Path) -> list[str]:
    """The names of an `envFile`; its values stay there."""
    if not isinstance(file, str):
        return []
    path = base / file.replace("${workspaceFolder}", str(base))
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    names = (line.strip().removeprefix("export ").partition("=")[0].strip() for line in lines if "=" in line)
    return [name for name in names if not name.startswith("#")]


def _named(entry: ServerEntry, server: McpServer, taken: Mapping[str, McpServer]) -> tuple[str, McpServer]:
    """A name of its own, or that of the same server in another file, whose settings it then has."""
    wanted = re.sub(r"[^A-Za-z0-9._-]+", "-", entry.name).strip("-._")[:48] or "server"
    if not NAME.fullmatch(wanted):
        raise StoreError(f"{entry.name!r}: rename this server")
    for name in (wanted, *(f"{wanted}-{number}" for number in range(2, 1000))):
        known = taken.get(name)
        if known is None:
            return name, server.model_copy(update={"tool": tool_of(name)})
        if known.starts == server.starts:
            return name, known.model_copy(update={"env": list(dict.fromkeys((*known.env, *server.env)))})
    raise StoreError(f"{entry.name!r}: a thousand servers have that name; rename this one")
