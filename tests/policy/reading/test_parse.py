from __future__ import annotations

from datetime import datetime

import pytest
import yaml

from cloned_proxy.policy.deciding.self_test import failed_tests
from cloned_proxy.policy.reading.pack import read_pack
from cloned_proxy.policy.reading.parse import PolicyError, parse_policy
from cloned_proxy.share import share_path
from tests.policy.tables import policy_of

CONFIG = share_path("config")
LINES = {(): 1, ("tools", "x@v1"): 5, ("tools", "x@v1", "allow", 0): 7, ("tools", "x@v1", "allow", 1): 8}


def _rule(**entry: object) -> dict[str, object]:
    return {"tools": {"x@v1": {"allow": [{"host": "a.example.com", **entry}]}}}


def _host(host: object) -> dict[str, object]:
    return {"tools": {"x@v1": {"allow": [host]}}}


def _tool(**keys: object) -> dict[str, object]:
    return {"tools": {"x@v1": keys}}


def _inject(header: str, value: str) -> dict[str, object]:
    return _rule(ports=[443], inject={"header": header, "value": value})


RULE = "tools.x@v1.allow[0]"
PROBLEMS = [
    ({"globl": {}}, "globl", 1, "did you mean 'global'"),
    ({"version": 2}, "version", 1, "write 1"),
    ({"mode": "audit"}, "mode", 1, "'enforce' or 'report'"),
    (_host("*.com"), RULE, 7, "'*.example.com'"),
    (_host("**.co.uk"), RULE, 7, "'**.example.co.uk'"),
    (_host("*.github.io"), RULE, 7, "too broad"),
    (_host("*"), RULE, 7, "every host"),
    (_host("https://a.example.com/x"), RULE, 7, "write the host alone: 'a.example.com'"),
    (_host("a.example.com/x"), RULE, 7, "paths: ["),
    (_host("a.example.com:8443"), RULE, 7, "ports: [8443]"),
    (_host("a.*.example.com"), RULE, 7, "whole labels at the front"),
    (_host("*.*.example.com"), RULE, 7, "'**.example.com'"),
    (_host("^a$"), RULE, 7, "regular expression"),
    (_host("a b"), RULE, 7, "space"),
    (_host(".example.com"), RULE, 7, "'*.example.com'"),
    (_host("[::1]"), RULE, 7, "without brackets"),
    (_host("127.1"), RULE, 7, "four plain decimals"),
    (_host("*.127.0.0.1"), RULE, 7, "no subdomains"),
    (_host(True), RULE, 7, "quote the host"),
    (_host(5), RULE, 7, "quote it"),
    (_host(None), RULE, 7, "not nothing"),
    (_rule(prots=[1]), f"{RULE}.prots", 7, "did you mean 'ports'"),
    (_rule(ports=[0]), f"{RULE}.ports[0]", 7, "write 1 or more"),
    (_rule(ports=["443"]), f"{RULE}.ports[0]", 7, "whole number"),
    (_rule(ports=[]), f"{RULE}.ports", 7, "at least one entry"),
    (_rule(methods=["get"]), f"{RULE}.methods[0]", 7, "'GET'"),
    (_rule(methods=["CONNECT"]), f"{RULE}.methods[0]", 7, "used inside"),
    (_rule(paths=["x"]), f"{RULE}.paths[0]", 7, "'/x'"),
    (_rule(paths=["/a/../b"]), f"{RULE}.paths[0]", 7, "two ways"),
    (_rule(paths=["/a**"]), f"{RULE}.paths[0]", 7, "stands alone"),
    (_rule(paths=["/a?b"]), f"{RULE}.paths[0]", 7, "leave out"),
    (_rule(expires=datetime(2026, 1, 1)), f"{RULE}.expires", 7, "2026-01-01T00:00:00Z"),  # noqa: DTZ001  the mistake at hand
    (_rule(expires="soon"), f"{RULE}.expires", 7, "2026-12-01T00:00:00Z"),
    (_rule(max_uses=0), f"{RULE}.max_uses", 7, "write 1 or more"),
    (_rule(idle="2 hours"), f"{RULE}.idle", 7, "not a duration"),
    (_rule(idle="10ms"), f"{RULE}.idle", 7, "from 1s to 7d"),
    (_rule(idle="8d"), f"{RULE}.idle", 7, "from 1s to 7d"),
    (_rule(protocols=["tcp"], methods=["GET"]), f"{RULE}.methods", 7, "remove one"),
    (_rule(protocols=["ssh"], ports=[22], paths=["/x"]), f"{RULE}.paths", 7, "remove one"),
    (_rule(protocols=["ssh"]), f"{RULE}.protocols", 7, "ports: [22]"),
    (_rule(protocols=["ssh", "tls"], ports=[22]), f"{RULE}.protocols", 7, "a rule for each"),
    (_rule(protocols=["tcp"], inject={"header": "A", "value": "b"}), f"{RULE}.inject", 7, "remove one"),
    (_rule(inject={"header": "A", "value": "b\r\nc"}), f"{RULE}.inject.value", 7, "one line"),
    (_rule(inject={"header": "A", "value": "b"}), f"{RULE}.inject", 7, "ports: [443]"),
    (_inject("Content-Length", "b"), f"{RULE}.inject.header", 7, "frames the message"),
    (_inject("Proxy-Authorization", "b"), f"{RULE}.inject.header", 7, "frames the message"),
    (_inject("A", "Bearer ${vault:LLM}"), f"{RULE}.inject.value", 7, "llm.api_key"),
    (_inject("A", "Bearer ${valut:llm.api_key}"), f"{RULE}.inject.value", 7, "begins a reference"),
    (_inject("A", "${vault:llm.api_key"), f"{RULE}.inject.value", 7, "begins a reference"),
    (_inject("A", "naïve"), f"{RULE}.inject.value", 7, "ASCII"),
    (_tool(limits={"bytes_per_hour": "5XB"}), "tools.x@v1.limits.bytes_per_hour", 5, "200MiB"),
    (_tool(on_deny=True), "tools.x@v1.on_deny", 5, "'refuse' or 'ask'"),
    (_tool(on_deny="ask", hold="61s"), "tools.x@v1.hold", 5, "60s"),
    (_tool(hold="20s"), "tools.x@v1.hold", 5, "on_deny: ask"),
    (_tool(allow="a.example.com"), "tools.x@v1.allow", 5, "a list is wanted here, and this is a text"),
    (_tool(allow=["a.example.com", "A.example.com."]), "tools.x@v1.allow[1]", 8, "same as line 7"),
    (_tool(deny=[{"host": "a.example.com", "ports": [1]}]), "tools.x@v1.deny[0].ports", 5, "unknown key"),
    ({"tools": {"a b": {}}}, "tools.a b", 1, "not a tool id"),
    ({"tests": [{}]}, "tests[0]", 1, "tests nothing"),
]


@pytest.mark.parametrize(("document", "path", "line", "message"), PROBLEMS)
def test_a_problem_names_path_line_and_fix(document: dict[str, object], path: str, line: int, message: str) -> None:
    with pytest.raises(PolicyError) as caught:
        parse_policy({"version": 1, **document}, source="p", version="", lines=LINES)
    found = [p for p in caught.value.problems if p.path == path]
    assert [(p.line, message in p.message) for p in found] == [(line, True)], caught.value.problems


@pytest.mark.parametrize("document", [None, {}, [], "x", 5, {"mode": "enforce"}])
def test_what_is_no_policy_is_refused(document: object) -> None:
    with pytest.raises(PolicyError, match="version"):
        parse_policy(document, source="p", version="", lines={})


def test_every_problem_is_told_at_once() -> None:
    document = {"version": 1, "globl": {}, "tools": {"x@v1": {"allow": ["*.com", "a:1"]}}}
    with pytest.raises(PolicyError) as caught:
        parse_policy(document, source="p", version="", lines={})
    assert len(caught.value.problems) == 3


def test_sizes_durations_and_lifetimes() -> None:
    policy = policy_of(tools={"x@v1": {"limits": {"bytes_per_hour": "200MiB"}, "on_deny": "ask", "hold": "20s"}})
    assert policy.tools["x@v1"].limits.bytes_per_hour == 200 * 2**20
    assert policy.tools["x@v1"].hold == 20.0


def test_a_renewed_lease_is_the_same_rule_and_other_ports_are_not() -> None:
    def rule_id(**entry: object) -> str:
        return policy_of(**_rule(**entry)).rules[0].id

    assert rule_id(max_uses=1, idle="2h", reason="x") == rule_id(expires="2099-01-01T00:00:00Z") == rule_id()
    assert len({rule_id(), rule_id(ports=[22]), rule_id(methods=["GET"]), rule_id(paths=["/a"])}) == 4


def test_tests_in_the_file_are_run() -> None:
    policy = policy_of(
        global_={"allow": ["a.example.com"]},
        tests=[{"allow": ["https://a.example.com/", "https://b.example.com/"], "deny": ["http://a.example.com/"]}],
    )
    assert [test.place for test in failed_tests(policy, 0.0)] == ["tests[0].allow[1]", "tests[0].deny[0]"]


def test_the_shipped_policy_holds_its_own_tests() -> None:
    document = yaml.safe_load((CONFIG / "policy.yaml").read_text())
    policy = parse_policy(document, source="policy.yaml", version="", lines={})
    assert policy.tests
    assert failed_tests(policy, 0.0) == ()


@pytest.mark.parametrize("name", ["personal", "shared", "enterprise"])
def test_the_shipped_packs_are_readable(name: str) -> None:
    assert read_pack(yaml.safe_load((CONFIG / "packs" / f"{name}.yaml").read_text())).problems == ()


def test_a_pack_with_a_wildcard_for_everything_is_refused() -> None:
    pack = read_pack({"allowlists": {"egress_domains": ["a.example.com", "*"], "egress_by_tool": {"t": [5]}}})
    assert [str(a.pattern) for a in pack.additions] == ["a.example.com"]
    assert [p.path for p in pack.problems] == ["allowlists.egress_domains[1]", "allowlists.egress_by_tool.t[0]"]


EMPTY = {"version": 1, "anonymous": "global"}


@pytest.mark.parametrize(
    "document",
    [
        {"global": None},
        {"global": {"allow": None, "deny": None, "use": None}},
        {"tools": None},
        {"tools": {"demo@v1": None}},
        {"tools": {"demo@v1": {"allow": None, "deny": None}}},
        {"tests": None},
        {"tests": [{"allow": None, "deny": ["https://a.example.com/"]}]},
    ],
    ids=str,
)
def test_a_key_with_nothing_below_it_is_an_empty_one(document: dict[str, object]) -> None:
    policy = parse_policy({**EMPTY, **document}, source="policy.yaml", version="", lines={})
    assert policy.rules == ()


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("10.0.0.0/8", "is a network"),
        ("2001:db8::/32", "is a network"),
        ("example.com/8", "holds a path"),
        ("example.com:70000", "70000 is no port (1 to 65535)"),
        ("example.com:0", "0 is no port (1 to 65535)"),
        ("example.com:*", "* is no port"),
        ("example.com:8443", "write {host: example.com, ports: [8443]}"),
        ("a.test - b.test", "indented deeper"),
    ],
)
def test_the_advice_for_a_host_is_one_that_is_accepted(host: str, words: str) -> None:
    with pytest.raises(PolicyError) as caught:
        parse_policy({**EMPTY, "global": {"allow": [host]}}, source="policy.yaml", version="", lines={})
    assert words in str(caught.value)
