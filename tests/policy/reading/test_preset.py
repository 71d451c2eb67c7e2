"""A preset is somebody else's list: it can make a policy as wide as its own hosts, and no wider in any other way."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from cloned_proxy.policy.callers.caller import ANONYMOUS, Principal
from cloned_proxy.policy.deciding.url import decide_url
from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.model.preset import Preset, used_names, valid_preset_name
from cloned_proxy.policy.reading.parse import PolicyError, parse_policy
from cloned_proxy.policy.reading.read_preset import read_preset
from cloned_proxy.policy.terms.vocabulary import Reason

TOOL = "demo@v1"
GOOD: dict[str, Any] = {
    "name": "some",
    "about": "for tests",
    "source": "https://example.com/docs",
    "checked": date(2026, 11, 27),
    "allow": ["a.example.com", {"host": "b.example.com", "ports": [443], "methods": ["GET"]}],
    "quiet": ["quiet.example.com"],
}


def preset(**changes: Any) -> Preset:
    name = changes.get("name", "some")
    return read_preset(GOOD | changes, name=name, source=f"{name}.yaml", version="0" * 12, lines={})


def policy(document: dict[str, Any], *presets: Preset) -> Policy:
    found = {each.name: each for each in presets}
    return parse_policy({"version": 1, **document}, source="policy.yaml", version="v", lines={}, presets=found)


def verdict(found: Policy, url: str, tool: str | None = TOOL) -> Reason:
    return decide_url(found, ANONYMOUS if tool is None else Principal(tool), url, "GET", 0).reason


def test_each_scope_gets_rules_of_its_own_with_their_origin() -> None:
    found = policy({"global": {"use": ["some"]}, "tools": {TOOL: {"use": ["some"], "allow": ["own.test"]}}}, preset())
    rules = found.tools[TOOL].allow.rules
    assert [(str(rule.pattern), rule.preset, rule.scope) for rule in rules] == [
        ("own.test", "", TOOL),
        ("a.example.com", "some", TOOL),
        ("b.example.com", "some", TOOL),
    ]
    assert {rule.origin for rule in rules[1:]} == {"preset some"}
    assert len({rule.id for rule in found.rules}) == 5, "the same entry is another rule in another scope"
    assert found.presets == {"some": "0" * 12}
    assert found.tools[TOOL].use == ("some",)
    assert [str(pattern) for pattern in found.tools[TOOL].quiet] == ["quiet.example.com"]


def test_it_opens_its_hosts_for_whoever_uses_it_and_nobody_else() -> None:
    found = policy({"tools": {TOOL: {"use": ["some"]}}}, preset())
    assert verdict(found, "https://a.example.com/") is Reason.ALLOWED
    assert verdict(found, "https://a.example.com/", "other@v1") is Reason.HOST_NOT_ALLOWED
    assert verdict(found, "https://a.example.com/", None) is not Reason.ALLOWED
    assert verdict(found, "https://quiet.example.com/") is Reason.HOST_NOT_ALLOWED, "quiet is refused all the same"


@pytest.mark.parametrize("scope", ["global", "tool"])
@pytest.mark.parametrize("host", ["a.example.com", "**.example.com"])
def test_a_deny_wins(scope: str, host: str) -> None:
    deny = {"global": {"deny": [host]}} if scope == "global" else {}
    tool: dict[str, Any] = {"use": ["some"], **({"deny": [host]} if scope == "tool" else {})}
    found = policy({**deny, "tools": {TOOL: tool}}, preset())
    assert verdict(found, "https://a.example.com/") is Reason.EXPLICIT_DENY


def test_what_the_file_says_itself_stands_before_the_preset() -> None:
    """A lease on the same entry stays a lease: it would be no end at all if the preset filled in behind it."""
    lease = {"host": "a.example.com", "max_uses": 1}
    found = policy({"tools": {TOOL: {"use": ["some"], "allow": [lease]}}}, preset())
    (rule,) = (rule for rule in found.rules if str(rule.pattern) == "a.example.com")
    assert rule.max_uses == 1
    assert rule.preset == ""


WIDER = [
    pytest.param({"host": "10.0.0.5"}, "never addresses", id="an address"),
    pytest.param("169.254.169.254", "never addresses", id="the metadata address"),
    pytest.param({"host": "a.example.com", "addresses": ["private"]}, "unknown key 'addresses'", id="addresses"),
    pytest.param(
        {"host": "a.example.com", "ports": [443], "inject": {"header": "X-Key", "value": "${vault:k}"}},
        "unknown key 'inject'",
        id="a secret",
    ),
    pytest.param({"host": "a.example.com", "max_uses": 3}, "unknown key 'max_uses'", id="terms"),
    pytest.param({"cidr": "10.0.0.0/8"}, "unknown key 'cidr'", id="a network"),
    pytest.param("*", "", id="everything"),
    pytest.param("*.com", "too broad", id="a public suffix"),
    pytest.param({"host": "a.example.com", "ports": [0]}, "", id="no port"),
]


@pytest.mark.parametrize(("entry", "said"), WIDER)
def test_what_a_policy_may_say_and_a_preset_may_not(entry: object, said: str) -> None:
    with pytest.raises(PolicyError) as caught:
        preset(allow=["fine.example.com", entry])
    assert "allow[1]" in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "other"}, "that of the file"),
        ({"checked": "soon"}, "checked"),
        ({"allow": []}, "allow"),
        ({"about": "two\nlines"}, "one line"),
        ({"source": ""}, "one line"),
        ({"quiet": ["*.com"]}, "quiet[0]"),
        ({"deny": ["a.test"]}, "unknown key 'deny'"),
    ],
)
def test_the_form_is_checked(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(PolicyError, match=said.replace("[", r"\[")):
        read_preset(GOOD | changes, name="some", source="some.yaml", version="", lines={})


@pytest.mark.parametrize("document", [None, [], "text", {}, {"name": "some"}])
def test_no_document_breaks_the_reader(document: object) -> None:
    with pytest.raises(PolicyError):
        read_preset(document, name="some", source="some.yaml", version="", lines={})


@pytest.mark.parametrize(
    ("use", "presets", "said"),
    [
        (["gone"], {}, "there is no preset 'gone'"),
        (["bad"], {"bad": "bad.yaml:3: allow[0]: wrong"}, "bad.yaml:3: allow"),
        (["some", "some"], {"some": preset()}, "twice"),
        ("some", {"some": preset()}, "list"),
    ],
)
def test_a_preset_that_cannot_be_used_refuses_the_policy(use: object, presets: Any, said: str) -> None:
    document = {"version": 1, "tools": {TOOL: {"use": use}}}
    with pytest.raises(PolicyError, match=said) as caught:
        parse_policy(document, source="policy.yaml", version="", lines={}, presets=presets)
    assert f"tools.{TOOL}.use" in str(caught.value)


@pytest.mark.parametrize("document", [None, [], {"tools": []}, {"tools": {"a": None}}, {"global": {"use": 3}}])
def test_names_are_found_in_what_is_not_valid_yet(document: object) -> None:
    assert used_names(document) == ()


def test_names_are_found_once_each() -> None:
    tools = {"a@v1": {"use": ["x", "y"]}, "b@v1": {"use": ["y", 3]}}
    assert used_names({"global": {"use": ["x"]}, "tools": tools}) == ("x", "y")


@pytest.mark.parametrize("name", ["", "../x", "a/b", "A", ".hidden", "a" * 65, "a.b", "-a", "a\n"])
def test_a_name_is_no_path(name: str) -> None:
    assert not valid_preset_name(name)
