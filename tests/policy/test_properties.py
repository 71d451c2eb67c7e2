# ruff: noqa: E501, RUF001  look-alike characters and long strategies are what is tested
from __future__ import annotations

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from cloned_proxy.policy.deciding.decide import decide
from cloned_proxy.policy.deciding.url import decide_url
from cloned_proxy.policy.terms.decision import Request
from cloned_proxy.policy.terms.host import HostError, parse_host
from cloned_proxy.policy.terms.vocabulary import Reason, Verdict
from tests.policy.deciding.test_decide import NOW, POLICY, TOOL

HOSTS = st.one_of(st.text(), st.text("abxn-.:0123456789*_ßé。․[]%@", max_size=30), st.ip_addresses().map(str))


@given(HOSTS, st.integers(), st.none() | st.text(), st.none() | st.text())
def test_decide_never_raises(host: str, port: int, method: str | None, path: str | None) -> None:
    decision = decide(POLICY, TOOL, Request(host, port, method, path), NOW)
    assert decision.reason is not Reason.INTERNAL_ERROR


@given(HOSTS)
def test_normalising_twice_changes_nothing(text: str) -> None:
    with contextlib.suppress(HostError):
        host = parse_host(text)
        assert parse_host(host.text) == host


@given(HOSTS, st.sampled_from(["one.example.com", "deep.example.com", "api.example.com"]))
def test_a_name_glued_in_front_of_a_suffix_never_matches_it(text: str, suffix: str) -> None:
    decision = decide(POLICY, TOOL, Request(text + suffix, 443), NOW)
    if decision.passes:
        assert decision.host is not None
        assert decision.host.text == suffix or decision.host.text.endswith("." + suffix)


@given(st.text())
def test_a_url_never_raises_and_never_passes_as_noise(text: str) -> None:
    assert decide_url(POLICY, TOOL, text, "GET", NOW).reason is not Reason.INTERNAL_ERROR


@given(
    st.sampled_from([r.pattern.value for r in POLICY.rules]),
    st.sampled_from(["GET", "POST"]),
    st.sampled_from(["/", "/repos/a"]),
)
def test_a_url_is_decided_as_the_wire_would(name: str, method: str, path: str) -> None:
    authority = f"[{name}]" if ":" in name else name
    expected = decide(POLICY, TOOL, Request(name, 443), NOW)
    if expected.inspect:
        expected = decide(POLICY, TOOL, Request(name, 443, method, path), NOW)
    assert decide_url(POLICY, TOOL, f"https://{authority}{path}", method, NOW) == expected
    plain = decide(POLICY, TOOL, Request(name, 80, method, path), NOW)
    assert decide_url(POLICY, TOOL, f"http://{authority}{path}", method, NOW) == plain


def test_a_dressed_up_url_is_malformed() -> None:
    for url in ("https://api.example.com@evil.net/", "https://api.example.com\\@evil.net/", "https:\n//api.example.com/",
                "ftp://api.example.com/", "https://api.example.com:99999/", "//api.example.com/", "https:///"):  # fmt: skip
        decision = decide_url(POLICY, TOOL, url, "GET", NOW)
        assert (decision.verdict, decision.reason) == (Verdict.DENY, Reason.MALFORMED_REQUEST), url
