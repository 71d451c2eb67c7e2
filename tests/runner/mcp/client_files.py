"""One file of each client as people write it: with comments, trailing commas, odd layouts, and secrets in `env`."""

from __future__ import annotations

SECRET = "s3cret-of-the-client"

CLAUDE = f"""{{
  "mcpServers": {{
    "plain": {{ "command": "mcp-server-everything" }},
    "with env": {{
      "type": "stdio",
      "command": "/usr/local/bin/node",
      "args": ["server.js", "--token", "${{TOKEN:-none}}"],
      "env": {{"GITHUB_TOKEN": "{SECRET}", "PATH": "/nowhere", "HTTPS_PROXY": "http://old"}}
    }},
    "remote": {{"type": "http", "url": "https://mcp.example.com", "headers": {{"Authorization": "{SECRET}"}}}},
    "engine": {{"command": "docker", "args": ["run", "-i", "--rm", "some/image"]}}
  }}
}}
"""

CLAUDE_USER = f"""{{
  "numStartups": 12,
  "mcpServers": {{"for-all": {{"command": "one", "args": [], "env": {{}}}}}},
  "projects": {{
    "PROJECT": {{"history": ["x"], "mcpServers": {{"here": {{"command": "two", "env": {{"KEY": "{SECRET}"}}}}}}}},
    "/some/other": {{"mcpServers": {{"there": {{"command": "three"}}}}}},
    "/nothing": {{"mcpServers": {{}}}}
  }}
}}"""

VS_CODE = """\ufeff// What Code asks for
{
\t"inputs": [
\t\t{"type": "promptString", "id": "key", "description": "Key", "password": true},
\t],
\t"servers": {
\t\t/* in the folder */ "local": {
\t\t\t"type": "stdio",
\t\t\t"command": "python3", // of the image
\t\t\t"args": ["${workspaceFolder}/server.py", "--key=${input:key}", "https://not.a/comment",],
\t\t\t"env": {
\t\t\t\t"LEVEL": "debug",
\t\t\t},
\t\t},
\t\t"quoted \\"name\\"": {"command": "x\\\\y"},
\t\t"empty": {"type": "http", "url": "https://mcp.example.com"},
\t},
}
"""

CODEX = f"""# my settings
model = "gpt-5"   # the new one

[mcp_servers.memory]   # remembers
command = "mcp-server-memory"  # no args
startup_timeout_sec = 20

[mcp_servers."two words"]
command = 'python3'
args = [
  "-m",  # a module
  "server",
]
env_vars = ["LOCAL_TOKEN"]

[mcp_servers."two words".env]
API_KEY = "{SECRET}"

[mcp_servers.inline]
command = "thing"
env = {{ A = "1" }}

[mcp_servers.remote]
url = "https://mcp.example.com"

[tui]
theme = "dark"
"""

GEMINI = """{"theme": "x", "mcpServers": {"one": {"command": "a", "args": ["$HOME_OF_IT/x"], "cwd": "./x",
"trust": true}, "web": {"httpUrl": "https://mcp.example.com"}}}
"""

FILES = {
    ".mcp.json": CLAUDE,
    ".claude.json": CLAUDE_USER,
    "claude_desktop_config.json": CLAUDE.replace("\n", "\r\n"),
    ".cursor/mcp.json": CLAUDE.replace("  ", "\t"),
    ".vscode/mcp.json": VS_CODE,
    ".codex/config.toml": CODEX,
    ".gemini/settings.json": GEMINI,
    "crlf/config.toml": CODEX.replace("\n", "\r\n"),
}
