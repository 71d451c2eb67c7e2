"""What a reviewer is shown before a yes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from cloned_proxy.policy.callers.caller import Principal
from cloned_proxy.policy.deciding.url import decide_url
from cloned_proxy.store.approvals.approval import Proposal
from cloned_proxy.store.approvals.approval_errors import NeverAllowedError
from cloned_proxy.store.files.errors import ConflictError
from cloned_proxy.store.policyfile.policy_entry import Entry
from cloned_proxy.store.policyfile.policy_file import load_policy
from cloned_proxy.telemetry.events import Kind
from tests.store.asking import ACTOR, OTHER, TOOL, Scene, asks


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "ws")


def test_it_counts_what_the_rule_would_have_matched_in_seven_days(scene: Scene) -> None:
    scene.denied("api.example.com", times=9)  # too long ago
    scene.pass_time(7 * 86_400 + 7200)
    scene.denied("api.example.com", times=3)
    scene.denied("api.example.com", port=8443)
    scene.denied("example.com")
    scene.denied("a.b.example.com")
    scene.denied("api.example.com", tool=OTHER)
    scene.denied("cdn.example.com", verdict="allow", reason="allowed", times=2)
    evidence = scene.service().evidence(scene.ask("*.example.com").id)
    assert [(m.tool, m.host, m.passed, m.denied) for m in evidence.matched] == [
        (TOOL, "api.example.com", 0, 3),
        (TOOL, "cdn.example.com", 2, 0),
    ]
    assert evidence.wildcard_reach == ("cdn.example.com",)
    assert evidence.narrowest == (Entry("api.example.com", (443,)),)
    assert "*.example.com reaches every name with one more label in front of example.com, recorded or not" in (
        evidence.notes
    )


def test_a_rule_for_everybody_counts_every_tool_that_would_inherit_it(tmp_path: Path) -> None:
    text = f"version: 1\ntools:\n  {TOOL}: {{may_request: [global]}}\n  alone@v1: {{inherit_global: false}}\n"
    scene = Scene(tmp_path / "ws", text)
    for tool in (TOOL, OTHER, "alone@v1", None):
        scene.denied("api.example.com", tool=tool)
    evidence = scene.service().evidence(scene.ask(tool=None).id)
    assert {m.tool for m in evidence.matched} == {TOOL, OTHER, None}
    assert any("every tool" in note for note in evidence.notes)
    assert evidence.narrowest == (Entry("api.example.com", (443,)),)


def test_a_deny_counts_what_it_would_cut_off_on_every_port(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "ws")
    scene.denied("api.example.com", port=8443, verdict="allow", reason="allowed", times=4)
    evidence = scene.service().evidence(scene.ask(action="deny").id)
    assert [(m.host, m.passed) for m in evidence.matched] == [("api.example.com", 4)]
    assert evidence.narrowest == ()


def test_the_narrowest_rule_names_methods_and_paths_only_where_they_were_seen(scene: Scene) -> None:
    plain: dict[str, Any] = {"kind": Kind.HTTP, "port": 80}
    scene.denied("a.example.com", method="GET", path="/v1/x", **plain)
    scene.denied("a.example.com", method="HEAD", path="/v1/y", **plain)
    scene.denied("a.example.com", reason="explicit_deny", port=9000)
    scene.denied("b.example.com", reason="port_not_allowed", port=80)
    scene.denied("c.example.com", method="GET", path="/star*", **plain)
    for number in range(9):
        scene.denied("d.example.com", method="GET", path=f"/{number}", **plain)
    scene.denied("e.example.com", method="weird", path="/", **plain)
    asked = scene.ask("*.example.com")
    narrowest = scene.service().evidence(asked.id).narrowest
    assert narrowest == (
        Entry("b.example.com", (80,)),
        Entry("a.example.com", (80,), ("GET", "HEAD"), ("/v1/x", "/v1/y")),
        Entry("c.example.com", (80,), ("GET",)),
        Entry("d.example.com", (80,), ("GET",)),
        Entry("e.example.com", (80,), (), ("/",)),
    )
    scene.service().approve(asked.id, actor=ACTOR, choice="narrowest", for_seconds=60)
    policy = load_policy(scene.policy_file, scene.now)

    def passes(url: str, method: str = "GET") -> bool:
        return decide_url(policy, Principal(TOOL), url, method, scene.now).passes

    assert passes("http://a.example.com/v1/x")
    assert not passes("http://a.example.com/v1/z")
    assert not passes("http://a.example.com/v1/x", "POST")
    assert not passes("https://a.example.com/v1/x")
    assert not passes("http://other.example.com/")


def test_the_narrowest_of_a_denied_call_covers_all_that_was_denied_at_that_host_and_port(scene: Scene) -> None:
    for path in ("/a", "/b"):
        scene.denied("api.example.com", kind=Kind.HTTP, port=80, method="GET", path=path)
    scene.denied("other.example.com", kind=Kind.HTTP, port=80, method="GET", path="/")
    proposal = Proposal((Entry("api.example.com", (80,), ("GET",), ("/a",)),), TOOL)
    asked = scene.service().ask(TOOL, proposal, origin="denied")
    assert scene.service().evidence(asked.id).narrowest == (Entry("api.example.com", (80,), ("GET",), ("/a", "/b")),)


def test_a_refused_address_is_narrowed_as_a_refused_name_is(scene: Scene) -> None:
    scene.denied("93.184.216.10", kind=Kind.HTTP, port=80, method="GET", path="/a", reason="ip_literal")
    asked = scene.ask("93.184.216.10")
    assert scene.service().evidence(asked.id).narrowest == (Entry("93.184.216.10", (80,), ("GET",), ("/a",)),)


def test_denials_behind_the_reviewers_back_do_not_widen_what_was_looked_at(scene: Scene) -> None:
    scene.denied("api.example.com", kind=Kind.HTTP, port=80, method="GET", path="/a")
    asked = scene.ask("api.example.com")
    seen = scene.service().evidence(asked.id).digest
    scene.denied("api.example.com", kind=Kind.HTTP, port=80, method="DELETE", path="/everything")
    with pytest.raises(ConflictError, match="look again"):
        scene.service().approve(asked.id, actor=ACTOR, choice="narrowest", seen=seen)
    assert scene.service().get(asked.id).state == "pending"
    assert scene.steps()[-1] == ("conflict", ACTOR)


def test_a_flood_of_names_is_counted_exactly_and_listed_in_part(scene: Scene) -> None:
    for number in range(60):
        scene.denied(f"h{number:02}.example.com")
        scene.denied(f"t{number:02}.example.com", tool=TOOL, verdict="allow", reason="allowed", times=2)
    scene.denied("bad_name!.example.com", reason="malformed_request")
    evidence = scene.service().evidence(scene.ask("*.example.com").id)
    assert (len(evidence.matched), evidence.matched_more) == (50, 70)
    assert (evidence.matched[0].host, evidence.matched[0].passed) == ("t00.example.com", 2)
    assert evidence.wildcard_reach == tuple(f"t{number:02}.example.com" for number in range(50))
    assert (len(evidence.denied), evidence.narrowest) == (50, ())
    assert any("more than 50 hosts were denied" in note for note in evidence.notes)


def test_a_rule_for_some_calls_counts_only_those(scene: Scene) -> None:
    web: dict[str, Any] = {"kind": Kind.HTTP, "port": 80}
    scene.denied("api.example.com", method="GET", path="/v1/a", **web)
    scene.denied("api.example.com", method="GET", path="/v2/a", **web)
    scene.denied("api.example.com", method="POST", path="/v1/a", **web)
    scene.denied("api.example.com")
    proposal = Proposal((Entry("api.example.com", (80, 443), ("GET",), ("/v1/**",)),), TOOL)
    evidence = scene.service().evidence(scene.service().ask(TOOL, proposal).id)
    assert [(m.host, m.denied) for m in evidence.matched] == [("api.example.com", 2)]  # the tunnel's inside is unknown


def test_where_nothing_was_denied_nothing_is_narrower(scene: Scene) -> None:
    asked = scene.ask()
    with pytest.raises(NeverAllowedError, match="nothing is narrower"):
        scene.service().approve(asked.id, actor=ACTOR, choice="narrowest")
    assert scene.service().get(asked.id).state == "pending"


NOTES = [
    pytest.param("**.example.com", "every name below example.com at any depth", id="any depth"),
    pytest.param("10.1.2.3", "no public address \\(private\\)", id="an internal address"),
    pytest.param("deny.example.net", "an explicit deny covers it and wins: .*global.deny\\[0\\]", id="denied anyway"),
    pytest.param("*.example.net", "an explicit deny covers it and wins", id="denied anyway, wildcard"),
    pytest.param("api.example.com", "it has no end", id="for good"),
]


@pytest.mark.parametrize(("host", "note"), NOTES)
def test_it_says_plainly_what_to_mind(tmp_path: Path, host: str, note: str) -> None:
    scene = Scene(tmp_path / "ws", "version: 1\nglobal:\n  deny: ['**.example.net']\n")
    asked = scene.service().ask(TOOL, asks(host))
    assert any(re.search(note, told) for told in scene.service().evidence(asked.id).notes)
