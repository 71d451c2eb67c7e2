"""Other programs' allowlists: a wildcard means here what it means there, and nothing opens more than it did."""

from __future__ import annotations

from typing import Any

import pytest

from cloned_proxy.policy.reading.foreign import (
    ForeignList,
    read_claude_code,
    read_har,
    read_smokescreen,
    read_squid,
    reader_of,
)
from cloned_proxy.policy.reading.pack import read_pack
from cloned_proxy.policy.terms.rule import PatternKind

SQUID = [
    pytest.param("example.com\n", ["allow example.com"], id="a name is that name"),
    pytest.param(
        ".example.com  # both\n", ["allow example.com", "allow **.example.com"], id="a dot is the domain and all below"
    ),
    pytest.param("a.example b.example\n\n# c.example\n", ["allow a.example", "allow b.example"], id="several a line"),
    pytest.param(
        "acl good dstdomain .a.example\nacl good dstdomain -n b.example\n",
        ["allow a.example", "allow **.a.example", "allow b.example"],
        id="an acl alone",
    ),
    pytest.param(
        "acl good dstdomain a.example\nacl bad dstdomain b.example\nacl unused dstdomain c.example\n"
        "http_access deny bad\nhttp_access allow localnet good\nhttp_access deny all\n",
        ["deny b.example", "allow a.example"],
        id="http_access says which",
    ),
    pytest.param("10.20.0.0/16\n2001:db8::/32\n", ["allow 10.20.0.0/16", "allow 2001:db8::/32"], id="networks"),
    pytest.param(
        "acl ours dst 10.20.0.0/16 192.0.2.0/24\nacl bad dst 127.0.0.0/8\n"
        "http_access deny bad\nhttp_access allow ours\n",
        ["deny 127.0.0.0/8", "allow 10.20.0.0/16", "allow 192.0.2.0/24"],
        id="networks of acls",
    ),
]


def told(found: ForeignList) -> list[str]:
    return [f"{each.action} {each.host}{''.join(f':{port}' for port in each.ports)}" for each in found.wanted]


@pytest.mark.parametrize(("text", "wanted"), SQUID)
def test_squid(text: str, wanted: list[str]) -> None:
    found = read_squid(text, "global")
    assert told(found) == wanted
    assert found.refused == {}


@pytest.mark.parametrize(
    ("text", "entry", "why"),
    [
        (".com\n", ".com", "too broad"),
        ("0.0.0.0/0\n", "0.0.0.0/0", "too wide"),
        ("10.20.0.1/16\n", "10.20.0.1/16", "bits set"),
        ("169.254.0.0/16\n", "169.254.0.0/16", "nothing that a rule opens"),
        ("acl x dst 10.0.0.1-10.0.0.9\n", "10.0.0.1-10.0.0.9", ""),
        (
            "acl n dst 10.0.0.0/8\nacl d dstdomain a.example\nhttp_access allow d n\n",
            "http_access allow d n",
            "all match",
        ),
        ("10.0.0.1\n", "10.0.0.1", "an address"),
        ("127.1\n", "127.1", ""),
        ("example com\nno_domain!\n", "no_domain!", ""),
        ("cloned.internal\n", "cloned.internal", "the proxy itself"),
        ('acl x dstdomain "/etc/squid/x.txt"\n', '"/etc/squid/x.txt"', "another file"),
        ("acl x dstdom_regex .*\n", "acl x dstdom_regex .*", "regular expression"),
        ("acl x dstdomain a.example\nhttp_access allow !x\n", "http_access allow !x", "everything but"),
        (
            "acl get method GET\nacl x dstdomain a.example\nhttp_access allow get x\n",
            "http_access allow get x",
            "condition",
        ),
        ("acl x dstdomain a.example\nhttp_access allow x !no\n", "http_access allow x !no", "condition"),
        ("acl x dstdomain a.example\nacl t time 9:00\nhttp_access deny x t\n", "http_access deny x t", "condition"),
    ],
)
def test_what_squid_says_and_a_policy_cannot(text: str, entry: str, why: str) -> None:
    found = read_squid(text, "global")
    assert told(found) == []
    assert [each[0] for each in found.refused] == [entry]
    assert why in next(iter(found.refused))[1]


SERVICE = {"name": "demo@v1", "project": "team", "action": "enforce", "allowed_domains": ["a.example", "*.b.example"]}


def test_smokescreen() -> None:
    document = {
        "version": "v1",
        "services": [SERVICE],
        "global_allow_list": ["c.example"],
        "global_deny_list": ["*.d.example"],
    }
    found = read_smokescreen(document, "global")
    assert [(each.scope, each.action, each.host) for each in found.wanted] == [
        ("demo@v1", "allow", "a.example"),
        ("demo@v1", "allow", "**.b.example"),
        ("global", "allow", "c.example"),
        ("global", "deny", "**.d.example"),
    ]
    assert found.refused == {}


def test_a_default_beside_services_would_open_it_to_them_too() -> None:
    default = {"action": "enforce", "allowed_domains": ["z.example"]}
    found = read_smokescreen({"services": [SERVICE], "default": default}, "global")
    assert "z.example" not in str(told(found))
    assert [entry for entry, _ in found.refused] == ["default"]
    assert told(read_smokescreen({"services": [], "default": default}, "global")) == ["allow z.example"]


@pytest.mark.parametrize("action", ["open", "report"])
def test_a_service_that_lets_everything_pass_does_so_no_more(action: str) -> None:
    found = read_smokescreen({"services": [{**SERVICE, "action": action}]}, "global")
    assert told(found) == ["allow a.example", "allow **.b.example"]
    assert action in next(iter(found.refused))[1]


def test_claude_code() -> None:
    document = {
        "sandbox": {"network": {"allowedDomains": ["a.example", "*.b.example"], "deniedDomains": ["c.example"]}},
        "permissions": {
            "allow": ["WebFetch(domain:d.example)", "Bash(ls:*)", "WebFetch"],
            "deny": ["WebFetch(domain:e.example)", "WebFetch"],
        },
    }
    found = read_claude_code(document, "claude@v1")
    assert told(found) == [
        "allow a.example",
        "allow **.b.example",
        "deny c.example",
        "allow d.example",
        "deny e.example",
    ]
    assert {each.scope for each in found.wanted} == {"claude@v1"}
    assert list(found.refused) == [("WebFetch", "every host; name those that are meant")]


def har(*urls: object) -> dict[str, Any]:
    return {"log": {"version": "1.2", "entries": [{"request": {"method": "GET", "url": url}} for url in urls]}}


def test_har() -> None:
    found = read_har(
        har("https://a.example/x?y", "https://a.example/z", "http://a.example:8080/", "wss://b.example/", "data:,x"),
        "global",
    )
    assert told(found) == ["allow a.example:443", "allow a.example:8080", "allow b.example:443"]
    assert found.refused == {}
    bad = read_har(har("https://10.0.0.1/", "ftp://c.example/", "https://x:99999/", 3), "global")
    assert told(bad) == []
    assert len(bad.refused) == 4


@pytest.mark.parametrize(
    ("document", "reader"),
    [
        (har(), read_har),
        ({"version": "v1", "services": []}, read_smokescreen),
        ({"permissions": {}}, read_claude_code),
        ({"sandbox": {}}, read_claude_code),
        ({"log": 3}, None),
        ({"version": 1, "global": {}}, None),
        ([], None),
        (None, None),
        ("a.example", None),
    ],
)
def test_the_form_is_found_out(document: object, reader: object) -> None:
    assert reader_of(document) is reader


@pytest.mark.parametrize("read", [read_har, read_smokescreen, read_claude_code])
@pytest.mark.parametrize(
    "document",
    [
        {},
        {"log": {"entries": [None, 3, {"request": []}]}},
        {"services": [None, {"name": 3}, {"name": "a@v1", "allowed_domains": {"x": 1}}], "default": 3},
        {"sandbox": [], "permissions": 3},
        {"sandbox": {"network": {"allowedDomains": [3, None, "*"]}}, "permissions": {"allow": "WebFetch"}},
        {"global_allow_list": "a.example"},
    ],
)
def test_no_document_breaks_a_reader(read: Any, document: dict[Any, Any]) -> None:
    assert told(read(document, "global")) == []


def test_networks_of_a_pack_become_rules_for_networks() -> None:
    pack = read_pack(
        {"allowlists": {"egress_domains": ["a.example.com"], "egress_by_tool": {"demo@v1": ["10.20.0.0/16"]}}}
    )
    assert pack.problems == ()
    assert [(each.scope, str(each.pattern), each.pattern.kind) for each in pack.additions] == [
        ("global", "a.example.com", PatternKind.EXACT),
        ("demo@v1", "10.20.0.0/16", PatternKind.CIDR),
    ]
    wide = read_pack({"allowlists": {"egress_domains": ["0.0.0.0/0"]}})
    assert "too wide" in wide.problems[0].message
