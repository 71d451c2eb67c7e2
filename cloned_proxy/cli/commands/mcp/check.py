"""`mcp check`: does a server start, what does it offer, how long does it take, and what was refused to it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from cloned_proxy import __version__
from cloned_proxy.cli.commands.sandbox.refusals import newest
from cloned_proxy.cli.place.context import existing_workspace
from cloned_proxy.cli.show.errors import FAILED, say
from cloned_proxy.cli.show.output import paint, put, put_json, visible
from cloned_proxy.program_name import in_this_shell
from cloned_proxy.runner.mcp.client_file import ClientFile
from cloned_proxy.runner.mcp.handshake import Greeting, HandshakeError, greet
from cloned_proxy.runner.mcp.registry import ServerRegistry
from cloned_proxy.runner.mcp.undo import UndoRecord
from cloned_proxy.store.audit.audit_log import AuditLog
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.workspaces.workspace import Workspace

_SHOWN_TOOLS: Final = 8


def check_server(name: str, *, workspace: Path | None, policy: Path | None, seconds: float, as_json: bool) -> int:
    """Returns the exit code: 1 when the server does not answer. Raises CommandError or StoreError."""
    place = existing_workspace(workspace)
    server = ServerRegistry(place).server(name)
    before = newest(place.state_db)
    # -P: what lies in the current directory is not ours to import.
    command = [sys.executable, "-P", "-m", "cloned_proxy", "mcp", "run", name, "--workspace", str(place.root)]
    command += ["--policy", str(policy)] if policy is not None else []
    greeting: Greeting | None = None
    problem = said = ""
    say(f"starting {name}; it has {seconds:g} s to answer")
    try:
        environment = {**_given_by_client(place, name), **os.environ}
        greeting, said = greet(command, environment, seconds=seconds, version=__version__)
    except HandshakeError as error:
        problem = str(error)
    denied = list(_denied(place, server.tool, before))
    if as_json:
        put_json(
            {
                "name": name,
                "tool": server.tool,
                "ok": greeting is not None,
                "error": problem or None,
                "server": asdict(greeting) if greeting is not None else None,
                "denied": denied,
                "stderr": said,
            }
        )
    else:
        _print(name, greeting, problem, denied)
    return 0 if greeting is not None else FAILED


def _print(name: str, greeting: Greeting | None, problem: str, denied: list[dict[str, Any]]) -> None:
    if greeting is None:
        put(f"{paint('fail', 'red')}  {name}: {visible(problem)}")
    else:
        about = f"{greeting.name} {greeting.version}, protocol {greeting.protocol}"
        put(f"{paint('ok', 'green')}    {name}: {visible(about)}")
        shown = ", ".join(greeting.tools[:_SHOWN_TOOLS])
        more = f" and {len(greeting.tools) - _SHOWN_TOOLS} more" if len(greeting.tools) > _SHOWN_TOOLS else ""
        put(f"tools   {len(greeting.tools)}: {visible(shown)}{more}" if greeting.tools else "tools   none")
        put(f"time    initialize {greeting.initialize_seconds:.2f} s, tools/list {greeting.list_seconds * 1000:.0f} ms")
        if greeting.exit_code is None:
            put("end     it did not end with its input, and was stopped")
    for each in denied:
        put(visible(in_this_shell(f"denied  {each['host']}:{each['port']} ({each['reason']}); {each['hint']}")))
    if not denied:
        put("denied  nothing")


def _given_by_client(place: Workspace, name: str) -> Mapping[str, str]:
    """The variables that stand in a client's file for this server: what its client would pass."""
    for path, file in UndoRecord(place).files.items():
        for each in file.servers:
            if each.server == name and each.changes:
                try:
                    entries = ClientFile.load(Path(path)).entries()
                except StoreError:
                    continue
                found = next((e.body.get("env") for e in entries if e.place == each.changes[0].place[:-1]), None)
                if isinstance(found, dict):
                    return {key: str(value) for key, value in found.items()}
    return {}


def _denied(place: Workspace, tool: str, after: int) -> Iterator[dict[str, Any]]:
    """Each destination once; what is on record when the server has ended."""
    seen = set[tuple[object, ...]]()
    with AuditLog(place.state_db) as audit:
        for entry in audit.entries(types=("decision",), after=after):
            body = entry.body
            key = (body["host"], body["port"], body["reason"])
            if body["tool"] == tool and body["verdict"] == "deny" and key not in seen:
                seen.add(key)
                yield {name: body[name] for name in ("host", "port", "reason", "hint")}
