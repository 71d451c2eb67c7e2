"""`.cloned/mcp.yaml`: the MCP servers that this workspace runs in sandboxes, and how each of them is run."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationError

from cloned_proxy.policy.callers.tool_id import tool_id
from cloned_proxy.policy.secrets.redact import hide_arguments
from cloned_proxy.store.files.atomic import write_atomically
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.files.files import read_regular_file
from cloned_proxy.store.files.list_edit import text_diff
from cloned_proxy.store.files.lock import locked
from cloned_proxy.store.files.policy_bytes import MAX_BYTES
from cloned_proxy.store.files.strict_model import StrictModel
from cloned_proxy.store.files.yaml_reader import read_document
from cloned_proxy.store.settings.config import SizeText
from cloned_proxy.store.workspaces.workspace import Workspace

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HEAD: Final = """\
# The MCP servers of this workspace, each run by `cloned-proxy mcp run NAME`. A change acts at the server's next start.
# project: none|ro|rw, home: true|false, mounts: [SRC:DST[:rw]], image, env (names, never values), memory, cpus
"""
VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

type Project = Literal["none", "ro", "rw"]
type Name = Annotated[str, Field(pattern=f"^{VARIABLE.pattern}$")]


class McpServer(StrictModel):
    """How one server is started. What is not set is as in `exec`."""

    tool: str
    """The identity whose rules apply."""
    command: str
    args: list[str] = Field(default_factory=list)
    """`${CLONED_MCP_1}` is the variable of that name, which the client fills in."""
    cwd: str | None = None
    """The working directory in the client's file; one in the project is the working directory in the sandbox, too."""
    env: list[Name] = Field(default_factory=list)
    """Names of the variables that are taken over from whoever starts the server; values are never kept."""
    package: str | None = None
    """What was baked into the image, such as `npm:@scope/server@1.2.3`."""
    image: str | None = None
    project: Project = "ro"
    home: bool = True
    mounts: list[str] = Field(default_factory=list)
    """`SRC:DST[:rw]`"""
    memory: SizeText | None = None
    cpus: Annotated[float, Field(gt=0, le=256)] | None = None

    @property
    def starts(self) -> tuple[object, ...]:
        """What makes two entries of clients the same server."""
        return self.command, tuple(self.args), self.cwd


class Start(StrictModel):
    """How one server is started, and where. Values alone, as the server's: `starting` gives them without this class."""

    engine: str | None
    """DOCKER_HOST for `mcp run`: clients start servers with few variables, and this one is not among them."""
    server: McpServer


class _RegistryDocument(StrictModel):
    engine: str | None = None
    """As in `Start`."""
    servers: dict[str, McpServer] = Field(default_factory=dict)


class ServerRegistry:
    """Reads at once; `save` writes what was put. Raises StoreError for a file that is not accepted."""

    def __init__(self, workspace: Workspace) -> None:
        self.path: Final = workspace.root / "mcp.yaml"
        self._before = b""
        if self.path.exists(follow_symlinks=False):
            self._before = read_regular_file(self.path, limit=MAX_BYTES, what="list of MCP servers")
        self._document = _parse(self._before, self.path)
        self._put: dict[str, McpServer] = {}
        self._gone: set[str] = set()
        self._engine: str | None = None

    @property
    def servers(self) -> Mapping[str, McpServer]:
        every = {**self._document.servers, **self._put}
        return {name: server for name, server in every.items() if name not in self._gone}

    @property
    def engine(self) -> str | None:
        return self._engine or self._document.engine

    def server(self, name: str) -> McpServer:
        """Raises StoreError with the names that there are."""
        found = self.servers.get(name)
        if found is None:
            known = ", ".join(sorted(self.servers)) or "none yet; `cloned-proxy mcp wrap FILE` or `mcp add` makes some"
            raise StoreError(f"{self.path}: there is no MCP server {name!r} here; known: {known}")
        return found

    def put(self, name: str, server: McpServer) -> None:
        if self._document.servers.get(name) != server:
            self._put[name] = server

    def drop(self, name: str) -> None:
        self._gone.add(name)

    def use_engine(self, host: str | None) -> None:
        """Remembers where the engine is, unless that is the default place."""
        if host is not None and host != self._document.engine:
            self._engine = host

    def diff(self) -> str:
        """What `save` would change, as a unified diff in which no key among `args` is shown."""
        return text_diff(_without_keys(self._before.decode()), _without_keys(self._text()), str(self.path))

    def save(self) -> None:
        """Writes what was put, comments and order kept. Raises StoreError when somebody else has written meanwhile."""
        if not self._changed:
            return
        with locked(self.path):
            now = read_regular_file(self.path, limit=MAX_BYTES, what="list") if self.path.exists() else b""
            if now != self._before:
                raise StoreError(f"{self.path}: was changed meanwhile; try again")
            text = self._text().encode()
            _parse(text, self.path)
            write_atomically(self.path, text)

    @property
    def _changed(self) -> bool:
        return bool(self._put or self._gone & self._document.servers.keys() or self._engine is not None)

    def _text(self) -> str:
        if not self._changed:
            return self._before.decode()
        from ruamel.yaml.comments import CommentedMap  # noqa: PLC0415  as in `_language`

        yaml = _language()
        document: Any = yaml.load(self._before.decode()) if self._before.strip() else None
        head = ""
        if document is None:
            document, head = CommentedMap(), _HEAD
        if self._engine is not None:
            document["engine"] = self._engine
        servers = document.setdefault("servers", CommentedMap())
        for name, server in self._put.items():
            body = server.model_dump(exclude_defaults=True)
            if name in servers:
                for key in servers[name].keys() - body.keys():
                    del servers[name][key]
                servers[name].update(body)
            else:
                servers[name] = CommentedMap(body)
        for name in self._gone & servers.keys():
            del servers[name]
        text = io.StringIO()
        yaml.dump(document, text)
        return head + text.getvalue()


def _language() -> Any:
    """Only a change needs the library that keeps comments: every start of a server reads this file."""
    from ruamel.yaml import YAML  # noqa: PLC0415

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 10_000
    return yaml


def _without_keys(text: str) -> str:
    """The text of such a file with what looks like a key among `args` hidden: for a terminal, never for a file."""
    yaml = _language()
    document = yaml.load(text) if text.strip() else None
    hidden = False
    for server in ((document or {}).get("servers") or {}).values():
        words = list(server.get("args", ()))
        for position, word in enumerate(hide_arguments(words)):
            if word != words[position]:
                server["args"][position], hidden = word, True
    if not hidden:
        return text
    shown = io.StringIO()
    yaml.dump(document, shown)
    return shown.getvalue()


def _parse(raw: bytes, path: Path) -> _RegistryDocument:
    document = read_document(raw, str(path))
    try:
        found = _RegistryDocument.model_validate({} if document.data is None else document.data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        line = next((document.lines[first["loc"][:n]] for n in range(len(first["loc"]), 0, -1)
                     if first["loc"][:n] in document.lines), 1)  # fmt: skip
        raise StoreError(f"{path}:{line}: {place}: {first['msg']}") from error
    for name, server in found.servers.items():
        line = document.lines.get(("servers", name), 1)
        if not NAME.fullmatch(name):
            raise StoreError(f"{path}:{line}: {name!r} is no name of a server; use letters, digits and ._-")
        try:
            tool_id(server.tool)
        except ValueError as error:
            raise StoreError(f"{path}:{line}: {error}") from error
    return found
