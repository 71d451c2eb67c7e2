"""`explain` says what enforcement will do, addresses included, and its hint works as printed."""

from __future__ import annotations

import json
import shlex

import pytest

from tests.cli.program import TOOL, Origin, Workspace, eventually, literal, policy_text


def _localhost(origin: Origin, **extra: str) -> str:
    return literal(origin, **extra).replace("127.0.0.1", "localhost")


def test_an_address_that_refuses_is_told_to_the_owner_with_the_command_that_opens_it_and_to_no_caller(
    workspace: Workspace, origin: Origin
) -> None:
    workspace.write_policy(policy_text(allow=[_localhost(origin)]))
    serving = workspace.serve()
    url = f"http://localhost:{origin.port}/"
    command = f"cloned-proxy allow localhost:{origin.port} --private"

    told = workspace.json("explain", url, code=1)
    refused = serving.get(url)
    assert (told["verdict"], told["reason"], refused.status, refused.reason) == (
        "deny", "address_not_allowed", 403, "address_not_allowed",
    )  # fmt: skip
    assert {each["class"] for each in told["addresses"]} == {"loopback"}
    assert told["hint"] == command

    identifier = json.loads(refused.body)["decision_id"]
    assert json.loads(refused.body)["hint"].endswith(f"cloned-proxy explain {identifier}")
    for address in told["addresses"]:
        assert address["address"] not in refused.body.replace(f"127.0.0.1:{serving.port}", "")
    assert "loopback" not in refused.body

    recorded = eventually_recorded(workspace, identifier)
    assert recorded["refused_address"] in {each["address"] for each in told["addresses"]}
    assert recorded["hint"] == command
    shown = workspace.run("explain", identifier)
    assert shown.returncode == 1
    assert f"to do   {command}" in shown.stdout
    assert f"address {recorded['refused_address']} (loopback)" in shown.stdout

    assert workspace.run(*shlex.split(command)[1:]).returncode == 0
    eventually(lambda: serving.get(url).status == 200, what="the hint to help")
    assert workspace.json("explain", url)["verdict"] == "allow"
    assert f"now     allow by {workspace.json('list')['rules'][0]['id']}" in workspace.run("explain", identifier).stdout


def eventually_recorded(workspace: Workspace, identifier: str) -> dict[str, object]:
    found: list[dict[str, object]] = []

    def there() -> bool:
        lines = map(json.loads, workspace.run("log", "--json", "--denied").stdout.splitlines())
        found[:] = [line for line in lines if line["id"] == identifier]
        return bool(found)

    eventually(there, what="the record")
    return found[0]


def test_the_rule_that_is_there_is_widened_and_keeps_what_it_says(workspace: Workspace, origin: Origin) -> None:
    entry = _localhost(origin, reason="the model", methods="[GET]")
    workspace.write_policy(policy_text(allow=[f"{entry}  # ours"]))
    hint = workspace.json("explain", f"http://localhost:{origin.port}/", code=1)["hint"]
    assert workspace.run(*shlex.split(hint)[1:]).returncode == 0
    (rule,) = workspace.json("list")["rules"]
    assert (rule["addresses"], rule["methods"], rule["reason"]) == (["private"], ["GET"], "the model")
    assert "# ours" in workspace.policy.read_text()


def test_a_name_of_this_machine_is_opened_as_it_is_allowed(workspace: Workspace, origin: Origin) -> None:
    workspace.write_policy(policy_text())
    serving = workspace.serve()
    done = workspace.run("allow", f"localhost:{origin.port}", "--tool", TOOL)
    assert "localhost is this machine, so its rule carries `addresses: [private]`" in done.stderr
    assert workspace.json("list")["rules"][0]["addresses"] == ["private"]
    assert workspace.run("allow", f"localhost:{origin.port}").returncode == 0
    eventually(lambda: serving.get(f"http://localhost:{origin.port}/").status == 200, what="the rule")


def test_the_proxy_itself_is_never_dialled_and_explain_says_so(workspace: Workspace) -> None:
    workspace.write_policy(policy_text())
    serving = workspace.serve()
    assert workspace.run("allow", f"127.0.0.1:{serving.port}").returncode == 0
    told = workspace.json("explain", f"http://127.0.0.1:{serving.port}/", code=1)
    assert told["reason"] == "address_not_allowed"
    assert "this proxy itself listens" in told["hint"]


def test_every_option_that_opens_arrives_and_is_one_rule(workspace: Workspace) -> None:
    workspace.write_policy(policy_text())
    words = ["allow", "git.example.com:8443", "--port", "22", "--tcp", "--private", "--reserved"]
    assert workspace.call(*words).returncode == 0
    (rule,) = workspace.json("list")["rules"]
    assert (rule["ports"], rule["protocols"], rule["addresses"]) == ([22, 8443], ["tcp"], ["private", "reserved"])
    assert workspace.call("explain", "https://git.example.com:8443/").returncode == 0


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("known.example", "https://known.example/"),
        ("known.example:443", "https://known.example:443/"),
        ("known.example/v1/x", "https://known.example/v1/x"),
        ("192.0.2.1", "https://192.0.2.1/"),
        ("2001:db8::1", "https://[2001:db8::1]/"),
    ],
)
def test_a_host_alone_is_read_as_https(workspace: Workspace, written: str, url: str) -> None:
    workspace.write_policy(policy_text(allow=["known.example", "192.0.2.1", '"2001:db8::1"']))
    told = workspace.json("explain", written)
    assert (told["url"], told["verdict"]) == (url, "allow")


def test_a_name_that_was_not_looked_up_is_said_to_be_so(workspace: Workspace) -> None:
    workspace.write_policy(policy_text(allow=["known.example"]))
    assert workspace.json("explain", "known.example")["addresses"] is None
    assert "--resolve" in workspace.call("explain", "known.example").stdout


def test_what_only_the_proxy_in_front_looks_up_is_no_public_host_for_explain_either(workspace: Workspace) -> None:
    public = "    public: true\n    limits: {requests_per_minute: 9}\n    allow: [known.example]\n"
    workspace.write_policy(policy_text().replace("    allow: []\n", public))
    (workspace.path / "config.yaml").write_text('upstream: {proxy: "http://192.0.2.1:3128", resolve: upstream}\n')
    told = workspace.json("explain", "other.example", "--tool", TOOL, code=1)
    assert (told["verdict"], told["reason"], told["looked_up_in_front"]) == ("deny", "address_not_allowed", False)
    assert workspace.json("explain", "known.example", "--tool", TOOL)["looked_up_in_front"] is True


@pytest.mark.parametrize("resolve", ["here", "upstream"])
@pytest.mark.parametrize("front", ["proxy: 'http://proxy.example.test:443'", "pac: front.pac"])
def test_a_pattern_never_leads_to_the_proxy_in_front_for_explain_either(
    workspace: Workspace, resolve: str, front: str
) -> None:
    workspace.write_policy(policy_text(allow=["'*.example.test'"]))
    (workspace.path / "config.yaml").write_text(f"upstream: {{{front}, resolve: {resolve}}}\n")
    (workspace.path / "front.pac").write_text(
        'function FindProxyForURL(url, host) { return "PROXY proxy.example.test:443"; }'
    )
    told = workspace.json("explain", "proxy.example.test", code=1)
    assert (told["verdict"], told["reason"]) == ("deny", "address_not_allowed")
    assert "allow proxy.example.test:443" in told["hint"]
    assert workspace.json("explain", "other.example.test")["verdict"] == "allow"
    workspace.write_policy(policy_text(allow=["'*.example.test'", "proxy.example.test"]))
    assert workspace.json("explain", "proxy.example.test")["verdict"] == "allow"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("0123456789abcdef01234567",), "no decision on record has this id"),
        (("0123456789abcdef01234567", "--tool", TOOL), "leave --tool and --method out"),
        (("a b",), "not a request that a client could send"),
    ],
)
def test_what_cannot_be_explained_names_the_fix(workspace: Workspace, words: tuple[str, ...], message: str) -> None:
    workspace.write_policy(policy_text())
    done = workspace.call("explain", *words)
    assert done.returncode == 2
    assert message in done.stderr


def test_a_caller_who_would_be_asked_for_its_credential_is_told_so(workspace: Workspace, origin: Origin) -> None:
    workspace.write_policy(f"version: 1\nanonymous: challenge\ntools:\n  {TOOL}: {{allow: [example.net]}}\n")
    serving = workspace.serve()
    url = f"http://localhost:{origin.port}/"

    told, refused = workspace.json("explain", url, code=1), serving.get(url)
    assert (told["reason"], refused.status, refused.reason) == ("identity_missing", 407, "identity_missing")
    assert told["hint"] == json.loads(refused.body)["hint"]
    assert told["hint"].endswith(f"without one: cloned-proxy allow localhost:{origin.port}")
    assert workspace.json("explain", url, "--tool", TOOL, code=1)["reason"] == "host_not_allowed"
