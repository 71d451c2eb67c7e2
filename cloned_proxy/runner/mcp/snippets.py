"""What to write into the file of each client to have it start a server of ours. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final

from cloned_proxy.runner.mcp import toml
from cloned_proxy.runner.mcp.wrapping import ServerStarter

_JSON: Final = (
    (
        "mcpServers",
        "Claude Code (.mcp.json), Claude Desktop, Cursor (.cursor/mcp.json), Gemini (.gemini/settings.json)",
    ),
    ("servers", "VS Code (.vscode/mcp.json)"),
)


def snippets(name: str, starter: ServerStarter, env: list[str]) -> Iterator[tuple[str, str]]:
    """(for which client, text) of each; values of variables are left for their owner to fill in."""
    entry: dict[str, object] = {"command": starter.words[0], "args": starter.args(name)}
    if env:
        entry["env"] = dict.fromkeys(env, "")
    for section, clients in _JSON:
        yield clients, json.dumps({section: {name: entry}}, indent=2)
    lines = [f"[mcp_servers.{toml.key_of(name)}]", *(f"{key} = {toml.raw_of(value)}" for key, value in entry.items()
                                                     if key != "env")]  # fmt: skip
    lines += [f"env_vars = {toml.raw_of(env)}"] if env else []
    yield "Codex (~/.codex/config.toml)", "\n".join(lines)
