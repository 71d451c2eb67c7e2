"""Networks, `public: true`, exceptions and doubtful paths from the command line."""

from __future__ import annotations

import pytest

from tests.cli.program import Workspace

POLICY = """version: 1
anonymous: global
tools:
  web@v1:
    public: true
    limits: {requests_per_minute: 60}
tests:
  - {tool: web@v1, allow: ["https://any.example/"], deny: ["http://10.21.0.5/", "http://127.0.0.1/"]}
"""


def test_a_network_is_allowed_explained_and_taken_back(workspace: Workspace) -> None:
    workspace.write_policy(POLICY)
    allowed = workspace.call("allow", "10.20.0.0/16:5432", "--tool", "web@v1", "--tcp", "--for", "30m", "--uses", "9")
    assert allowed.returncode == 0, allowed.stderr
    assert "{cidr: 10.20.0.0/16, ports: [5432], protocols: [tcp]" in workspace.policy.read_text()
    assert workspace.call("deny", "10.0.0.0/8", "--except", "10.20.0.0/16").returncode == 0
    assert workspace.call("deny", "**.example.com", "--path", "/admin/**").returncode == 0

    rules = {rule["host"]: rule for rule in workspace.json("list")["rules"]}
    assert (rules["10.20.0.0/16"]["kind"], rules["10.20.0.0/16"]["uses_left"]) == ("cidr", 9)
    assert (rules["10.0.0.0/8"]["except"], rules["**.example.com"]["paths"]) == (["10.20.0.0/16"], ["/admin/**"])
    told = workspace.json("explain", "http://10.20.0.5:5432/", "--tool", "web@v1")
    assert (told["verdict"], told["rule"]["id"]) == ("allow", rules["10.20.0.0/16"]["id"])
    denied = workspace.json("explain", "https://a.example.com/x%2f..%2fadmin", "--tool", "web@v1", code=1)
    assert (denied["reason"], denied["hint"]) == (
        "explicit_deny", f"cloned-proxy remove {rules['**.example.com']['id']}",
    )  # fmt: skip

    assert workspace.call("remove", "10.20.0.0/16", "--tool", "web@v1").returncode == 0
    assert workspace.call("remove", "10.0.0.0/8", "**.example.com").returncode == 0
    assert [rule["kind"] for rule in workspace.json("list")["rules"]] == ["public"]
    for network, words in (
        ("10.20.0.1/16", "write '10.20.0.0/16'"),
        ("0.0.0.0/0", "public: true"),
        ("169.254.0.0/16", "link-local"),
    ):
        refused = workspace.call("allow", network)
        assert (refused.returncode, words in refused.stderr) == (2, True), refused.stderr


def test_public_is_said_loudly(workspace: Workspace) -> None:
    workspace.write_policy(POLICY)
    listed = workspace.call("list")
    assert "THE WHOLE PUBLIC INTERNET" in listed.stdout
    checked = workspace.call("policy", "check")
    assert checked.returncode == 0
    assert "EVERY public host" in checked.stdout + checked.stderr
    other = workspace.path / "other.yaml"
    other.write_text(POLICY.replace("public: true", "public: false").partition("tests:")[0])
    assert "- web@v1: allow THE WHOLE PUBLIC INTERNET" in workspace.call("policy", "diff", str(other)).stdout
    (rule,) = workspace.json("list")["rules"]
    kept = workspace.call("remove", rule["id"])
    assert kept.returncode != 0, "its own test forbids it"
    assert workspace.call("remove", rule["id"], "--update-tests").returncode == 0
    assert "public: false" in workspace.policy.read_text()


BOUND = ("--limit", "requests_per_minute=120", "--limit", "bytes_per_hour=200MiB")


@pytest.mark.parametrize(
    "before",
    [
        "version: 1\ntools:\n  web@v1: {allow: [api.example.com]}\n",
        "version: 1\ntools: {web@v1: {public: false, limits: {concurrent: 2}}}\n",
        "version: 1\ntools:\n  web@v1:\n    limits:  # to be said\n    deny: [evil.example.net]\n",
        "version: 1\n",
        "",
    ],
)
def test_allow_public_opens_one_tool_within_its_limits_and_is_taken_back(workspace: Workspace, before: str) -> None:
    workspace.write_policy(before)
    tried = workspace.call("allow", "--public", "--tool", "web@v1", *BOUND, "--dry-run")
    assert (tried.returncode, workspace.policy.read_text()) == (0, before)
    assert "public: true" in tried.stdout
    done = workspace.call("allow", "--public", "--tool", "web@v1", *BOUND, "--reason", "a browser")
    assert done.returncode == 0, done.stderr
    assert "WARNING: web@v1 may send whatever it holds to EVERY public host" in done.stderr
    for url, tool, code in (
        ("https://any.example/", "web@v1", 0),
        ("http://10.1.2.3/", "web@v1", 1),
        ("https://any.example/", "other@v1", 1),
    ):
        assert workspace.call("explain", url, "--tool", tool).returncode == code
    assert [line in workspace.policy.read_text() for line in ("# to be said", "deny: [evil.example.net]")] == [
        line in before for line in ("# to be said", "deny: [evil.example.net]")
    ]
    again = workspace.call("allow", "--public", "--tool", "web@v1")
    assert "nothing to change" in again.stderr
    rule = next(rule["id"] for rule in workspace.json("list")["rules"] if rule["kind"] == "public")
    assert f"remove {rule}" in done.stderr
    newest = workspace.json("policy", "history")[0]
    assert (newest["summary"], newest["why"]) == (
        "allow THE WHOLE PUBLIC INTERNET for web@v1 requests_per_minute=120 bytes_per_hour=200MiB",
        "a browser",
    )
    assert workspace.call("remove", rule).returncode == 0
    assert workspace.call("explain", "https://any.example/", "--tool", "web@v1").returncode == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--public", *BOUND], "add --tool TOOL"),
        (["--public", "--tool", "web@v1"], "web@v1 needs a bound; add --limit requests_per_minute=120"),
        (["--public", "--tool", "web@v1", "--limit", "denials_per_minute=9"], "web@v1 needs a bound"),
        (["--public", "--tool", "web@v1", "--limit", "rpm=9"], "no such limit"),
        (["--public", "--tool", "web@v1", "--limit", "concurrent=0"], "at least 1"),
        (["--public", "--tool", "web@v1", "--limit", "concurrent"], "at least 1"),
        (["--public", "--tool", "web@v1", "--limit", "bytes_per_hour=2zz"], "not a size"),
        (["--public", "api.example.com", "--tool", "web@v1", *BOUND], "--public stands alone"),
        (["--public", "--for", "1h", "--tool", "web@v1", *BOUND], "--public stands alone"),
        (["api.example.com", *BOUND], "--limit bounds a tool that has --public"),
    ],
)
def test_allow_public_without_its_bound_writes_nothing(workspace: Workspace, words: list[str], told: str) -> None:
    workspace.write_policy("version: 1\n")
    refused = workspace.call("allow", *words)
    assert (refused.returncode, told in refused.stderr) == (2, True), refused.stderr
    assert workspace.policy.read_text() == "version: 1\n"


def test_a_rule_is_written_for_a_path_that_can_be_read_in_two_ways(workspace: Workspace) -> None:
    workspace.write_policy("version: 1\nanonymous: global\n")
    paths = ["--path", "/@acme%2f*", "--path", "/api/**"]
    assert workspace.call("allow", "registry.example.com", *paths, "--method", "GET").returncode == 0
    for path, code in (
        ("@acme%2fwidget", 0),
        ("api/v4/projects/a%2Fb", 0),
        ("api//x;v=1", 0),
        ("@acme/widget", 1),
        ("api/..%2fx", 1),
    ):
        assert workspace.call("explain", f"https://registry.example.com/{path}").returncode == code, path
    told = workspace.json("explain", "https://registry.example.com/@other%2fwidget", code=1)
    assert told["hint"] == "cloned-proxy allow registry.example.com --method GET --path /@other%2fwidget"
