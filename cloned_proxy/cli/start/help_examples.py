"""What each command looks like when it is used: the examples of `--help`, and of the manual page.

A test parses every line by the program's own commands, and asks for some of each command.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import typer

EXAMPLES: Final[Mapping[str, tuple[str, ...]]] = {
    "": (
        "serve  # the proxy, until Ctrl-C",
        "allow api.example.com --for 30m  # acts at once",
        "log -f --denied  # refusals, as they happen",
    ),
    "init": (
        "init  # asks three questions at most",
        "init --run claude-code --preset github-read --yes",
        "init --yes --dry-run",
    ),
    "serve": (
        "serve  # on 127.0.0.1:8081",
        "serve --listen 127.0.0.1:0 --metrics off",
        "serve --workers 4 --log-format json",
    ),
    "allow": (
        "allow api.example.com",
        "allow '*.example.com' --tool demo.tool@v1 --for 30m",
        "allow api.example.com --method GET --path '/v1/**' --dry-run",
        "allow 10.20.0.0/16:5432 --tcp --tool demo.tool@v1  # a network",
        "allow --preset github-read --tool demo.tool@v1",
        "allow --public --tool web@v1 --limit requests_per_minute=60",
        "allow registry.example.com --registry npm --package '@acme/*'",
    ),
    "preset": ("preset list", "preset show github-read"),
    "preset list": ("preset list", "preset list --json"),
    "preset show": ("preset show github-read", "preset show github-read --json"),
    "deny": (
        "deny tracker.example.com  # every port of it, for everybody",
        "deny '**.example.net' --tool demo.tool@v1 --reason spam",
        "deny '**.example.net' --except api.example.net",
    ),
    "remove": (
        "remove api.example.com  # an allow or a deny of it",
        "remove r-0123456789  # one rule, as `list` shows it",
        "remove api.example.com --tool demo.tool@v1 --dry-run",
    ),
    "status": ("status", "status --json"),
    "list": (
        "list",
        "list --tool demo.tool@v1 --json",
        "list --stale 30d  # what nothing has used for so long",
    ),
    "explain": (
        "explain https://api.example.com/v1",
        "explain https://api.example.com/ --tool demo.tool@v1",
        "explain https://api.example.com/ --method POST --json",
    ),
    "log": (
        "log -f  # as it happens",
        "log --denied --since 1h",
        "log -n 20  # the newest",
        "log --tool demo.tool@v1 --json  # one object a line",
        "log --fleet --since 1h  # of all replicas",
    ),
    "approvals": ("approvals list", "approvals approve a-0123456789 --for 30m"),
    "approvals list": ("approvals list", "approvals list --all --json"),
    "approvals show": ("approvals show a-0123456789", "approvals show a-0123456789 --json"),
    "approvals approve": (
        "approvals approve a-0123456789 --for 30m",
        "approvals approve a-0123456789 --narrowest",
    ),
    "approvals key": ("approvals key", "approvals key --json"),
    "approvals reject": ("approvals reject a-0123456789", "approvals reject a-0123456789 --reason 'ask for one host'"),
    "fleet resume": ("fleet resume --reason 'its disk failed'",),
    "audit": ("audit verify", "audit export --since 1d --signed > log.jsonl"),
    "audit verify": (
        "audit verify",
        "audit verify --json  # with the last hash",
        "audit verify log.jsonl --key ed25519:KEY  # an export",
    ),
    "audit export": ("audit export --since 1d --signed > log.jsonl", "audit export > log.jsonl"),
    "policy": ("policy check", "policy history", "policy restore 0123456789ab --dry-run"),
    "policy check": ("policy check  # the one in use", "policy check new.yaml --json"),
    "policy diff": ("policy diff new.yaml", "policy diff new.yaml --json"),
    "policy import": (
        "policy import pack.yaml --dry-run",
        "policy import ~/.claude/settings.json --tool claude@v1",
        "policy import /etc/squid/allowed.txt --json",
    ),
    "policy suggest": (
        "policy suggest --tool demo.tool@v1 --since 1d",
        "policy suggest --tool demo.tool@v1 | patch .cloned/policy.yaml",
    ),
    "policy prune": ("policy prune --dry-run", "policy prune"),
    "policy history": ("policy history", "policy history --json"),
    "policy show": ("policy show 0123456789ab", "policy show 0123456789ab --diff  # only what it changed"),
    "policy restore": (
        "policy restore 0123456789ab --dry-run",
        "policy restore 0123456789ab --reason 'back to monday'",
    ),
    "fleet": (
        "fleet init acme --store redis://redis.example.com:6379",
        "fleet publish --reason 'add the registry'",
    ),
    "fleet init": (
        "fleet init acme --store rediss://redis.example.com:6379",
        "fleet init acme  # for envelopes in git or a ConfigMap",
    ),
    "fleet publish": (
        "fleet publish --reason 'add the registry'",
        "fleet publish new.yaml --reason new --output new.dsse.json",
    ),
    "fleet rollback": ("fleet rollback 1.12 --reason 'broke the build'",),
    "fleet status": ("fleet status", "fleet status --watch", "fleet status --history --json"),
    "fleet rotate": ("fleet rotate  # both keys sign", "fleet rotate --finish  # the new one alone"),
    "vault": ("vault set llm.api_key", "vault list"),
    "vault set": (
        "vault set llm.api_key  # asks for the value",
        "vault set llm.api_key < key.txt",
    ),
    "vault canary": ("vault canary bait.github", "vault canary bait.netrc --write ~/.netrc-old"),
    "vault list": ("vault list", "vault list --json"),
    "vault remove": ("vault remove llm.api_key",),
    "proxy": ("proxy", "proxy --set http://127.0.0.1:8081", "proxy --clear"),
    "connect": (
        "connect git.example.com 22  # for ssh: with %h %p",
        "connect --tool demo.tool@v1 git.example.com 22",
    ),
    "token": ("token demo.tool@v1 --ttl 8h", "token demo.tool@v1 --json"),
    "pair": ("pair --name laptop", "pair --api --read-only --name grafana"),
    "devices": ("devices", "devices revoke d-01234567"),
    "devices revoke": ("devices revoke d-01234567  # as `devices` shows it",),
    "doctor": ("doctor", "doctor --json"),
    "ca": ("ca path", "ca install-hint"),
    "exec": (
        "exec demo.tool@v1 -- curl -sS https://api.example.com/",
        "exec demo.tool@v1 --env LANG=C --mount ./data:/data -- ls /data",
        "exec demo.tool@v1 --project rw -- npm test  # as you",
        "exec demo.tool@v1 --timeout 60 --memory 2g -- make test",
        "exec -it demo.tool@v1 -- bash  # a terminal",
        "exec gh.tool@v1 --home --env GITHUB_TOKEN -- ./list-issues",
    ),
    "home": ("home list", "home reset demo.tool@v1"),
    "home list": ("home list", "home list --json"),
    "home reset": ("home reset demo.tool@v1", "home reset --yes  # of every tool"),
    "setup": (
        "setup claude-code   # shows the change",
        "setup git --write",
        "setup codex --write --tool codex@v1  # by rules of its own",
        "setup git --undo",
    ),
    "mcp": ("mcp wrap .mcp.json --dry-run", "mcp check memory", "mcp unwrap .mcp.json"),
    "mcp wrap": (
        "mcp wrap .mcp.json --dry-run  # shows every change",
        "mcp wrap ~/.cursor/mcp.json",
        "mcp wrap ~/.codex/config.toml --report",
    ),
    "mcp unwrap": ("mcp unwrap .mcp.json", "mcp unwrap ~/.cursor/mcp.json --dry-run"),
    "mcp add": (
        "mcp add time --pypi mcp-server-time==2026.10.19",
        "mcp add files --npm @acme/files@1.2.3 --write .mcp.json",
    ),
    "mcp run": ("mcp run memory --workspace ~/code/project/.cloned",),
    "mcp check": ("mcp check memory", "mcp check memory --json"),
    "mcp gate": ("mcp gate --workspace ~/code/project/.cloned", "mcp gate --tool claude@v1"),
    "mcp list": ("mcp list", "mcp list --json"),
    "shell": (
        "shell  # bash, under the rules of shell@v1",
        "shell -- claude  # under the rules of claude@v1",
        "shell my.agent@v1 --project ro -- python3",
    ),
    "image": ("image build", "image list"),
    "image build": (
        "image build",
        "image build --npm @modelcontextprotocol/server-memory@2026.8.31",
        "image build --pypi mcp-server-time==2026.10.19 --tool time@v1",
    ),
    "image list": ("image list", "image list --json"),
    "run": (
        "run pipeline.research.report --topic 'egress filtering'",
        "run pipeline.research.report --topic filtering --dry-run",
    ),
    "verify": ("verify", "verify --json"),
    "llm": ("llm up", "llm status", "llm down"),
    "llm up": ("llm up",),
    "llm down": ("llm down",),
    "llm status": ("llm status", "llm status --json"),
}
"""The examples of each command, by its words. A line lacks the name of the program, and has a comment where it needs
one."""


def add_examples(app: typer.Typer, words: tuple[str, ...] = ()) -> None:
    """Puts the examples below the help of every command."""
    app.info.epilog = _epilog(words)
    for command in app.registered_commands:
        command.epilog = _epilog((*words, command.name or ""))
    for group in app.registered_groups:
        if group.typer_instance is not None and group.name is not None:
            add_examples(group.typer_instance, (*words, group.name))


def _epilog(words: tuple[str, ...]) -> str | None:
    lines = EXAMPLES.get(" ".join(words))
    if lines is None:
        return None
    # \b is how Click's formatter is told to leave the lines as they are.
    return "\n".join(("\b", "Examples:", *(f"  {line}" for line in aligned(lines))))


def aligned(lines: Sequence[str]) -> list[str]:
    """The lines as they are typed, with their comments below each other."""
    parts = [f"cloned-proxy {line}".partition("  # ") for line in lines]
    width = max((len(command) for command, comes, _ in parts if comes), default=0)
    return [f"{command.ljust(width) if comes else command}{comes}{comment}" for command, comes, comment in parts]
