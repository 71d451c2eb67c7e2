"""`policy import`: each host of a list is told, and what comes of it stands in the policy in one edit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.program import TOOL, Workspace, policy_text

PACK = "allowlists:\n  egress_domains: [api.example.com]\n"
HAR = json.dumps({"log": {"entries": [{"request": {"url": "https://api.example.com/"}}]}})
SETTINGS = json.dumps({"sandbox": {"network": {"allowedDomains": ["api.example.com"]}}})
SMOKESCREEN = "---\nversion: v1\nservices: []\nglobal_allow_list:\n  - api.example.com\n"


@pytest.mark.parametrize(
    ("text", "form"),
    [
        (PACK, "Cloned policy pack"),
        ("# ours\napi.example.com\n", "Squid dstdomain list"),
        (SMOKESCREEN, "smokescreen ACL"),
        (SETTINGS, "Claude Code settings"),
        (HAR, "HAR"),
    ],
)
def test_each_form_is_known_and_each_host_told(workspace: Workspace, tmp_path: Path, text: str, form: str) -> None:
    workspace.write_policy(policy_text())
    file = tmp_path / "list"
    file.write_text(text)
    done = workspace.call("policy", "import", str(file))
    assert done.returncode == 0, done.stderr
    assert form in done.stderr
    assert done.stdout.startswith("added    allow api.example.com")
    assert workspace.call("explain", "https://api.example.com/").returncode == 0
    again = workspace.call("policy", "import", str(file), "--json")
    told = json.loads(again.stdout)
    assert (told["form"], told["added"], told["written"]) == (form, [], False)
    assert [each["host"] for each in told["present"]] == ["api.example.com"]


def test_what_is_refused_is_told_and_the_rest_is_taken(workspace: Workspace, tmp_path: Path) -> None:
    workspace.write_policy(policy_text())
    file = tmp_path / "list"
    file.write_text(".com\n.good.example\n10.0.0.1\n")
    dry = workspace.call("policy", "import", str(file), "--tool", TOOL, "--dry-run")
    assert "nothing written" in dry.stderr
    assert "good.example" not in workspace.policy.read_text()
    done = workspace.call("policy", "import", str(file), "--tool", TOOL)
    assert done.returncode == 1, "something was refused"
    assert [line.split()[:3] for line in done.stdout.splitlines() if line.startswith("added")] == [
        ["added", "allow", "good.example"],
        ["added", "allow", "**.good.example"],
    ]
    refused = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("refused")]
    assert refused == [".com", "10.0.0.1"]
    assert workspace.call("explain", "https://a.b.good.example/", "--tool", TOOL).returncode == 0
    assert workspace.call("explain", "https://good.example/").returncode == 1, "for that tool alone"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "there is no host in it"),
        ("{", "not valid JSON"),
        ('{"a": ' * 100_000, "not valid JSON"),
        ('{"some": "thing"}', "this is not a Cloned policy pack"),
        ("version: 1\nglobal: {}\n", "this is not a Cloned policy pack"),
        ("*.com\n", "nothing of it can be taken"),
        ("allowlists: {egress_domains: ['*.com', good.example]}\n", "too broad"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_what_is_no_list_changes_nothing(workspace: Workspace, tmp_path: Path, text: str | bytes, said: str) -> None:
    workspace.write_policy(policy_text())
    before = workspace.policy.read_text()
    file = tmp_path / "list"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    done = workspace.call("policy", "import", str(file))
    assert done.returncode == 2
    assert said in done.stderr
    assert workspace.policy.read_text() == before


def test_an_import_that_the_policys_tests_forbid_changes_nothing(workspace: Workspace, tmp_path: Path) -> None:
    workspace.write_policy("version: 1\nanonymous: global\ntests: [{deny: ['https://b.example.com/']}]\n")
    before = workspace.policy.read_text()
    file = tmp_path / "list"
    file.write_text("a.example.com\nb.example.com\n")
    assert workspace.call("policy", "import", str(file)).returncode == 2
    assert workspace.policy.read_text() == before
