"""`explain` and enforcement give the same verdict and the same reason: each URL is explained, then really asked for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from tests.cli.program import TOOL, Origin, Workspace


@dataclass(frozen=True)
class Row:
    """`url` may hold {port}: the origin's."""

    name: str
    url: str
    method: str = "GET"
    tool: str | None = None
    reason: str | None = None
    """None: allowed."""


TABLE = [
    Row("the literal that a rule names", "http://127.0.0.1:{port}/open/a"),
    Row("the same with a query", "http://127.0.0.1:{port}/open/a?b=c"),
    Row("a method that the rule does not name", "http://127.0.0.1:{port}/open/a", "POST", None, "method_not_allowed"),
    Row("a path that the rule does not cover", "http://127.0.0.1:{port}/closed", reason="path_not_allowed"),
    Row("a dot segment out of the path", "http://127.0.0.1:{port}/open/../closed", reason="path_not_allowed"),
    Row("another port", "http://127.0.0.1:1/open/a", reason="port_not_allowed"),
    Row("another literal", "http://127.0.0.2:{port}/open/a", reason="ip_literal"),
    Row("a short spelling of the literal", "http://127.1:{port}/open/a", reason="ip_literal"),
    Row("a number for the literal", "http://2130706433:{port}/open/a", reason="ip_literal"),
    Row("a name that no rule has", "http://unlisted.example/open/a", reason="host_not_allowed"),
    Row("an explicit deny over an allow", "http://refused.example/", reason="explicit_deny"),
    Row("the tool's own rule", "http://127.0.0.1:{port}/tool/x", "POST", TOOL),
    Row("the tool's rule without the credential", "http://127.0.0.1:{port}/tool/x", reason="path_not_allowed"),
    Row("a lease that is over", "http://over.example/", "GET", TOOL, "lease_expired"),
]


def policy(origin: Origin) -> str:
    # Not longer ago: what ended a day ago leaves the file.
    a_minute_ago = f"{datetime.now(UTC) - timedelta(minutes=1):%Y-%m-%dT%H:%M:%SZ}"
    return f"""\
version: 1
mode: enforce
anonymous: global
global:
  allow:
    - {{host: 127.0.0.1, ports: [{origin.port}], methods: [GET, HEAD], paths: ["/open/**"]}}
    - refused.example
  deny: [refused.example]
tools:
  {TOOL}:
    inherit_global: true
    allow:
      - {{host: 127.0.0.1, ports: [{origin.port}], paths: ["/tool/**"]}}
      - {{host: over.example, expires: {a_minute_ago}}}
"""


def test_every_url_is_answered_as_it_is_explained(workspace: Workspace, origin: Origin) -> None:
    workspace.write_policy(policy(origin))
    serving = workspace.serve()
    token = workspace.json("token", TOOL)["token"]
    for row in TABLE:
        url = row.url.format(port=origin.port)
        options = ["--method", row.method, *(["--tool", row.tool] if row.tool else [])]
        explained = workspace.json("explain", url, *options, code=1 if row.reason else 0)
        before = len(origin.seen)
        answer = serving.get(url, row.method, {"Proxy-Authorization": f"Bearer {token}"} if row.tool else {})
        reached = len(origin.seen) - before

        assert explained["verdict"] == ("deny" if row.reason else "allow"), row.name
        assert (explained["reason"] if row.reason else None) == row.reason, row.name
        assert answer.reason == row.reason, row.name
        assert reached == (0 if row.reason else 1), row.name


def test_a_denied_url_is_explained_with_the_command_that_allows_it(workspace: Workspace, origin: Origin) -> None:
    workspace.write_policy(policy(origin))
    done = workspace.run("explain", "https://new.example/")
    assert done.returncode == 1
    command = next(line for line in done.stdout.splitlines() if "cloned-proxy allow" in line)
    arguments = command[command.index("cloned-proxy allow") :].split()[1:]
    assert workspace.run(*arguments).returncode == 0
    assert workspace.run("explain", "https://new.example/").returncode == 0


@pytest.mark.parametrize("url", ["ftp://example.com/", "http://", "http://exa mple.com/", "http://h:99999/"])
def test_what_is_not_a_url_of_the_proxy_is_bad_input(workspace: Workspace, origin: Origin, url: str) -> None:
    workspace.write_policy(policy(origin))
    done = workspace.run("explain", url)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1


def test_report_mode_reports_names_and_still_opens_no_internal_address(workspace: Workspace, origin: Origin) -> None:
    workspace.write_policy("version: 1\nmode: report\nanonymous: global\n")
    serving = workspace.serve()
    named = workspace.json("explain", "https://unlisted.example/")
    assert (named["verdict"], named["reason"]) == ("report", "host_not_allowed")
    internal = workspace.json("explain", origin.url(), code=1)
    assert internal["reason"] == serving.get(origin.url()).reason == "address_not_allowed"
    assert origin.seen == []
