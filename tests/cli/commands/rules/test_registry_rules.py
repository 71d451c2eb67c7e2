"""Rules with `registry` on the command line: written, listed, explained, checked."""

from __future__ import annotations

import json

from cloned_proxy.cli.commands.doctor.registry_checks import registry_check
from cloned_proxy.store.workspaces.workspace import Workspace as Place
from tests.cli.program import Workspace

POLICY = """\
version: 1
anonymous: global
global:
  allow:
    - {host: registry.example.com, ports: [443], registry: {kind: npm, min_age: 7d}}
"""


def test_a_rule_is_written_as_a_person_would_and_shown_everywhere(workspace: Workspace) -> None:
    workspace.write_policy("version: 1\nanonymous: global\n")
    done = workspace.call(
        "allow", "pypi.example.com", "--registry", "pypi", "--package", "Acme_Pad", "--index", "/x/simple"
    )
    assert done.returncode == 0, done.stderr
    assert (
        "ports: [443], registry: {kind: pypi, min_age: 7d, allow: [Acme_Pad], index: /x/simple}}"
        in workspace.policy.read_text()
    )
    (rule,) = json.loads(workspace.call("list", "--json").stdout)["rules"]
    assert rule["registry"] == {"kind": "pypi", "min_age": "7d", "allow": ["acme-pad"], "index": "/x/simple/"}
    assert "registry pypi from 7d on, but acme-pad" in workspace.call("list").stdout
    shown = workspace.call("explain", "https://pypi.example.com/x/simple/acme.pad/").stdout
    assert "acme-pad passes at any age" in shown
    assert "tls     opened" in shown
    shown = workspace.call("explain", "https://pypi.example.com/x/simple/other/").stdout
    assert "what is younger is left out of metadata, and its files are refused" in shown
    check = registry_check(Place(workspace.policy.parent), None)
    assert check is not None
    assert (check.status, "pypi on pypi.example.com" in check.detail) == ("ok", True)


def test_a_lease_stands_beside_the_rule_and_a_shorter_age_is_told(workspace: Workspace) -> None:
    workspace.write_policy(POLICY)
    lease = ("allow", "registry.example.com", "--registry", "npm", "--package", "left-pad", "--for", "30m")
    assert workspace.call(*lease).returncode == 0
    assert workspace.call(*lease).returncode == 0
    rules = json.loads(workspace.call("list", "--json").stdout)["rules"]
    assert [(each["registry"].get("allow"), each["expires"] is None) for each in rules] == [
        (None, True),
        (["left-pad"], False),
    ]
    changed = workspace.policy.parent.parent / "changed.yaml"
    changed.write_text(POLICY.replace("7d", "0s"))
    assert "registry npm from 0ms on" in workspace.call("policy", "diff", str(changed)).stdout
    workspace.write_policy(POLICY.replace("7d", "0s"))
    check = registry_check(Place(workspace.policy.parent), None)
    assert check is not None
    assert check.status == "warn"


def test_what_makes_no_rule_is_refused_with_the_fix(workspace: Workspace) -> None:
    workspace.write_policy(POLICY)
    for options, problem in (
        (("--package", "left-pad"), "add --registry npm or pypi"),
        (("--registry", "gem"), "write 'npm' or 'pypi'"),
        (("--registry", "npm", "--package", "*"), "would exempt every package"),
        (("--registry", "npm", "--min-age", "7"), "not a duration"),
        (("--registry", "npm", "--tcp"), "needs TLS to be opened"),
    ):
        done = workspace.call("allow", "other.example.com", *options)
        assert (done.returncode, problem in done.stderr) == (2, True), done.stderr
    assert workspace.policy.read_text() == POLICY
