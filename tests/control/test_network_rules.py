"""Networks, `public: true` and exceptions in the rules that the control UI reads and writes."""

from __future__ import annotations

from tests.cli.program import Workspace, policy_text
from tests.control.support import Control

PUBLIC = """\
  web@v1:
    public: true  # for now
    limits: {requests_per_minute: 60}
"""


def test_networks_are_written_shown_and_taken_back(browser: Control, workspace: Workspace) -> None:
    workspace.write_policy(policy_text() + PUBLIC)
    allowed = {"host": "10.20.0.0/16", "ports": [5432], "protocols": ["tcp"], "for": "30m", "tool": "web@v1"}
    assert browser.post("/rules", allowed).status == 200
    assert browser.post("/rules", {"host": "10.0.0.0/8", "action": "deny", "except": ["10.20.0.0/16"]}).status == 200
    refused = browser.post("/rules", {"host": "0.0.0.0/0"})
    assert refused.status == 422
    assert "public: true" in refused.text

    rules = {rule["host"]: rule for rule in browser.api("/rules")["items"]}
    network, denied, public = rules["10.20.0.0/16"], rules["10.0.0.0/8"], rules["public: true"]
    assert (network["kind"], network["ports"], network["protocols"]) == ("cidr", [5432], ["tcp"])
    assert network["expires"] is not None
    assert (denied["action"], denied["kind"], denied["exceptions"]) == ("deny", "cidr", ["10.20.0.0/16"])
    assert (public["kind"], public["scope"]) == ("public", "web@v1")

    for rule in (public, denied, network):
        assert browser.delete(f"/rules/{rule['id']}").status == 200
    text = workspace.policy.read_text()
    assert "public: false  # for now" in text
    assert "10." not in text
