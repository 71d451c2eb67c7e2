"""Rules with `registry`: what a file may say, which rule judges, which package a path names."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cloned_proxy.policy.callers.caller import ANONYMOUS, Principal
from cloned_proxy.policy.deciding.decide import decide
from cloned_proxy.policy.deciding.url import decide_url
from cloned_proxy.policy.hints.hint import owner_hint
from cloned_proxy.policy.hints.hint_inside import hint_inside
from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.paths.registry_path import PackagePart, Target, metadata_path, target_of
from cloned_proxy.policy.reading.parse import PolicyError, parse_policy
from cloned_proxy.policy.terms.decision import Decision, Request
from cloned_proxy.policy.terms.registry import Age, Registry, RegistryKind, decide_age
from cloned_proxy.policy.terms.vocabulary import Mode, Reason, Verdict

DAY = 86_400.0
NPM = Registry(RegistryKind.NPM, 7 * DAY)
PYPI = Registry(RegistryKind.PYPI, 7 * DAY, (), "/simple/")
HOST = "registry.example.com"
BASE = {"host": HOST, "ports": [443], "registry": {"kind": "npm", "min_age": "7d"}}


def policy(*entries: object, tool: tuple[object, ...] = (), **more: object) -> Policy:
    document = {"version": 1, "anonymous": "global", "global": {"allow": list(entries)}, **more}
    if tool:
        document["tools"] = {"a@v1": {"allow": list(tool)}}
    return parse_policy(document, source="policy.yaml", version="v", lines={})


def asked(found: Policy, path: str | None = "/left-pad", *, port: int = 443, tool: str | None = None) -> Decision:
    method = None if path is None else "GET"
    caller = ANONYMOUS if tool is None else Principal(tool)
    return decide(found, caller, Request(HOST, port, method, path), 0.0)


def entry(min_age: str = "7d", *allow: str, **more: object) -> dict[str, object]:
    return {**BASE, "registry": {"kind": "npm", "min_age": min_age, "allow": list(allow)}, **more}


def test_the_rule_of_the_contract_is_read() -> None:
    (rule,) = policy(entry("7d", "@acme/*")).rules
    assert rule.registry == Registry(RegistryKind.NPM, 7 * DAY, ("@acme/*",), "/")
    assert rule.needs_inspection
    assert asked(policy(BASE), None).inspect


def test_a_rule_of_pypi_knows_projects_in_any_spelling() -> None:
    (rule,) = policy({**BASE, "registry": {"kind": "pypi", "min_age": "1h", "allow": ["Acme.Pad_*"]}}).rules
    assert rule.registry == Registry(RegistryKind.PYPI, 3600.0, ("acme-pad-*",), "/simple/")
    assert rule.registry.exempts("acme-pad-x")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"registry": {"kind": "gem", "min_age": "7d"}}, "write 'npm' or 'pypi'"),
        ({"registry": {"kind": "npm"}}, "'min_age' is missing"),
        ({"registry": {"kind": "npm", "min_age": 7}}, "not a duration"),
        ({"registry": {"kind": "npm", "min_age": "4000d"}}, "out of bounds"),
        ({"registry": {"kind": "npm", "min_age": "7d", "alow": []}}, "did you mean 'allow'"),
        ({"registry": {"kind": "npm", "min_age": "7d", "allow": ["*"]}}, "exempt every package"),
        ({"registry": {"kind": "npm", "min_age": "7d", "allow": ["a b"]}}, "not a package of npm"),
        ({"registry": {"kind": "pypi", "min_age": "7d", "allow": ["@acme/x"]}}, "not a package of pypi"),
        ({"registry": {"kind": "npm", "min_age": "7d", "index": "/a/../b"}}, "not the path of an index"),
        ({"registry": {"kind": "npm", "min_age": "7d", "index": "a b"}}, "not the path of an index"),
        ({"ports": None}, "add 'ports: \\[443\\]'"),
        ({"ports": [80, 443]}, "add 'ports: \\[443\\]'"),
        ({"protocols": ["tcp"]}, "needs TLS to be opened"),
    ],
)
def test_what_cannot_be_enforced_is_refused_with_the_fix(change: dict[str, object], problem: str) -> None:
    changed = {key: value for key, value in {**BASE, **change}.items() if value is not None}
    with pytest.raises(PolicyError, match=problem):
        policy(changed)


@pytest.mark.parametrize(
    ("rules", "tool_rules"),
    [
        ((HOST, BASE), ()),
        ((BASE, HOST), ()),
        ((f"*.{HOST.partition('.')[2]}", BASE), ()),
        (({"host": HOST, "methods": ["GET"]}, BASE), ()),
        ((BASE,), (HOST,)),
        ((HOST,), (BASE,)),
    ],
)
def test_no_rule_beside_it_takes_the_age_away(rules: tuple[object, ...], tool_rules: tuple[object, ...]) -> None:
    found = policy(*rules, tool=tool_rules)
    for path in ("/left-pad", None):
        decision = asked(found, path, tool="a@v1")
        assert decision.rule is not None
        assert decision.rule.registry is not None
        assert decision.inspect is (path is None)


def test_a_tool_that_does_not_inherit_has_its_own_rules_alone() -> None:
    document = {"a@v1": {"allow": [HOST], "inherit_global": False}}
    decision = asked(policy(BASE, tools=document), tool="a@v1")
    assert decision.rule is not None
    assert decision.rule.registry is None


def test_a_lease_that_exempts_a_package_judges_that_package_alone() -> None:
    lease = entry("7d", "left-pad", expires="2030-01-01T00:00:00Z")
    found = policy(BASE, lease)
    exempt, other = asked(found, "/left-pad/-/left-pad-2.0.0.tgz").rule, asked(found, "/right-pad").rule
    assert exempt is not None
    assert other is not None
    assert (exempt.is_lease, other.is_lease) == (True, False)
    over = replace(asked(found).request)
    ended = decide(found, ANONYMOUS, over, 4e9)
    assert ended.rule is not None
    assert not ended.rule.is_lease


def test_the_shortest_age_judges() -> None:
    rule = asked(policy(entry("7d"), entry("1d"))).rule
    assert rule is not None
    assert rule.registry is not None
    assert rule.registry.min_age == DAY


@pytest.mark.parametrize("other", [HOST, {"host": HOST, "ports": [80]}])
def test_a_registry_is_not_asked_in_the_clear(other: object) -> None:
    """Neither by its own rule nor by one for port 80 beside it."""
    found = policy(BASE, other)
    decision = decide_url(found, ANONYMOUS, f"http://{HOST}/left-pad/-/left-pad-2.0.0.tgz", "GET", 0.0)
    assert (decision.passes, decision.reason) == (False, Reason.PROTOCOL_NOT_ALLOWED)
    assert "https" in owner_hint(decision)
    assert not decide_url(found, ANONYMOUS, f"http://{HOST}:443/left-pad", "GET", 0.0).passes


@pytest.mark.parametrize(
    ("published", "passes"),
    [(None, False), (0.0, True), (-1.0, True), (1.0, False), (7 * DAY, False), (8 * DAY, False), (1e12, False)],
)
def test_an_age_is_judged_by_the_clock_of_the_proxy(published: float | None, passes: bool) -> None:
    decision = decide_age(asked(policy(BASE)), Age("left-pad", "1.0.0", published), 7 * DAY)
    assert decision.passes is passes
    assert decision.reason is (Reason.ALLOWED if passes else Reason.TOO_YOUNG)


def test_report_mode_records_what_it_would_refuse() -> None:
    decision = decide_age(asked(policy(BASE, mode="report")), Age("left-pad"), 0.0)
    assert (decision.verdict, decision.reason, decision.mode) == (Verdict.REPORT, Reason.TOO_YOUNG, Mode.REPORT)


def test_the_hint_names_the_newest_and_the_command_for_a_while() -> None:
    decision = asked(policy(tool=({**BASE, "methods": ["GET"], "addresses": ["private"]},)), tool="a@v1")
    refused = decide_age(decision, Age("left-pad", "2.0.0", 0.0, "1.3.0"), DAY)
    assert owner_hint(refused) == (
        "left-pad 2.0.0 is younger than 7d; newest that is old enough: 1.3.0; or cloned-proxy allow "
        "registry.example.com --tool a@v1 --registry npm --min-age 7d --method=GET --private --package left-pad "
        "--for 30m"
    )
    assert hint_inside(refused) == "left-pad 2.0.0 is younger than 7d; newest that is old enough: 1.3.0"
    unknown = decide_age(decision, Age("left-pad", problem="its metadata holds no dates"), DAY)
    assert hint_inside(unknown) == "nobody knows the age of left-pad: its metadata holds no dates"
    assert hint_inside(decide_age(decision, Age("left-pad"), DAY)) == "all of left-pad is younger than 7d"


NPM_FILE = Target(PackagePart.FILE, "left-pad", "/left-pad/-/left-pad-2.0.0.tgz")
SCOPED_FILE = Target(PackagePart.FILE, "@acme/pad", "/@acme/pad/-/pad-2.0.0.tgz")


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/left-pad", Target(PackagePart.METADATA, "left-pad")),
        ("/left-pad/", Target(PackagePart.METADATA, "left-pad")),
        ("/left%2dpad", Target(PackagePart.METADATA, "left-pad")),
        ("/Left-Pad", Target(PackagePart.METADATA, "Left-Pad")),  # another package, for npm
        ("/left-pad?write=true", Target(PackagePart.METADATA, "left-pad")),
        ("/left-pad/2.0.0", Target(PackagePart.METADATA, "left-pad", version="2.0.0")),
        ("/left-pad/latest", Target(PackagePart.METADATA, "left-pad", version="latest")),
        ("/@acme%2fpad", Target(PackagePart.METADATA, "@acme/pad")),
        ("/@acme%2Fpad", Target(PackagePart.METADATA, "@acme/pad")),
        ("/%40acme/pad", Target(PackagePart.METADATA, "@acme/pad")),
        ("/@acme/pad/latest", Target(PackagePart.METADATA, "@acme/pad", version="latest")),
        ("/left-pad/-/left-pad-2.0.0.tgz", NPM_FILE),
        ("/left-pad/%2d/left-pad-2.0.0.tgz", NPM_FILE),
        ("/left-pad/-/left-pad-2.0.0.tgz?x=/left-pad/-/left-pad-1.0.0.tgz", NPM_FILE),
        ("/%6ceft-pad%2f-%2fleft-pad-2%2e0.0.tgz", NPM_FILE),
        ("/@acme/pad/-/pad-2.0.0.tgz", SCOPED_FILE),
        ("/@acme%2fpad/-/pad-2.0.0.tgz", SCOPED_FILE),
        ("/-/ping", Target(PackagePart.API)),
        ("/-/package/x.tgz", Target(PackagePart.UNKNOWN)),
        ("/-/package/x.tgz/", Target(PackagePart.UNKNOWN)),
        ("/", Target(PackagePart.API)),
        ("/-/npm/v1/security/advisories/bulk", Target(PackagePart.API)),
        ("/-/v1/search?text=x", Target(PackagePart.API)),
    ],
)
def test_what_a_path_asks_npm_for(path: str, target: Target) -> None:
    assert target_of(NPM, path) == target


@pytest.mark.parametrize(
    "path",
    [
        "//left-pad", "/left-pad//-/left-pad-2.0.0.tgz", "/left-pad/-//left-pad-2.0.0.tgz", "/left-pad/./-/x.tgz",
        "/x/../left-pad/-/left-pad-2.0.0.tgz", "/x/%2e%2e/left-pad/-/left-pad-2.0.0.tgz", "/left-pad/-/%2e%2e/x.tgz",
        "/left-pad%252f-%252fx.tgz", "/left-pad\\-\\x.tgz", "/left-pad%5c-%5cx.tgz", "/left-pad;a/-/x.tgz",
        "/left-pad/-/x.tgz%00", "/left-pad/-/x.tgz%3fy", "/left-pad/-/x.tgz%23", "/left-pad/-/", "/left-pad/a/b",
        "/download/left-pad/2.0.0", "/-/left-pad-2.0.0.tgz", "/-/package/left-pad-2.0.0.tgz", "/-/evil/x",
        "/left-pad/-/%c3%a9.tgz", "/left-pad/-/x.tgz ", "/@acme", "/@acme/pad/x/y", "/left-pad/-", "x", "",
        "/-/v1/..%2f..%2fleft-pad/-/left-pad-2.0.0.tgz", "/_all_docs/x/y",
    ],
)  # fmt: skip
def test_what_could_be_read_in_two_ways_is_neither_metadata_nor_a_file(path: str) -> None:
    assert target_of(NPM, path).part is PackagePart.UNKNOWN


def test_a_registry_below_a_path() -> None:
    below = Registry(RegistryKind.NPM, 7 * DAY, (), "/repo/npm/")
    assert target_of(below, "/repo/npm/left-pad") == Target(PackagePart.METADATA, "left-pad")
    assert metadata_path(below, "@acme/pad") == "/repo/npm/@acme%2Fpad"
    assert target_of(below, "/left-pad").part is PackagePart.UNKNOWN
    assert target_of(below, "/elsewhere/left-pad/-/x.tgz").package == "left-pad"


WHEEL = Target(PackagePart.FILE, "acme-pad", "/packages/ab/acme_pad-2.0-py3-none-any.whl")


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/simple/", Target(PackagePart.API)),
        ("/simple", Target(PackagePart.API)),
        ("/simple/Acme.Pad", Target(PackagePart.METADATA, "acme-pad")),
        ("/simple/acme__pad/", Target(PackagePart.METADATA, "acme-pad")),
        ("/pypi/Acme_Pad/json", Target(PackagePart.METADATA, "acme-pad", whole=True)),
        ("/pypi/acme-pad/2.0/json", Target(PackagePart.METADATA, "acme-pad", version="2.0", whole=True)),
        (WHEEL.path, WHEEL),
        (
            "/packages/ab/Acme.Pad-2.0-py3-none-any.whl",
            replace(WHEEL, path="/packages/ab/Acme.Pad-2.0-py3-none-any.whl"),
        ),
        (f"{WHEEL.path}.metadata", replace(WHEEL, beside=".metadata")),
        ("/packages/ab/acme_pad-2%2e0-py3-none-any.whl", WHEEL),
        ("/x/acme-pad-2.0.tar.gz", Target(PackagePart.FILE, "acme-pad", "/x/acme-pad-2.0.tar.gz")),
        ("/legacy/", Target(PackagePart.API)),
        ("/", Target(PackagePart.UNKNOWN)),
        ("/simple/acme-pad/x", Target(PackagePart.UNKNOWN)),
        ("/simple//acme-pad/", Target(PackagePart.UNKNOWN)),
        ("/packages/acme_pad.exe", Target(PackagePart.UNKNOWN)),
        ("/packages//acme_pad-2.0.tar.gz", Target(PackagePart.UNKNOWN)),
        ("/packages/acme_pad-2.0.tar.gz;x", Target(PackagePart.UNKNOWN)),
    ],
)
def test_what_a_path_asks_pypi_for(path: str, target: Target) -> None:
    assert target_of(PYPI, path) == target
