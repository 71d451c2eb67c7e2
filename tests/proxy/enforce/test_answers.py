from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest

from cloned_proxy.policy.terms.decision import Decision, Request
from cloned_proxy.policy.terms.host import parse_host
from cloned_proxy.policy.terms.vocabulary import Reason, Verdict
from cloned_proxy.proxy.enforce import answers
from cloned_proxy.proxy.enforce.answers import UpstreamFailure
from cloned_proxy.proxy.grants.grant import Refusal

STATUS = {
    **dict.fromkeys(
        (
            Reason.HOST_NOT_ALLOWED, Reason.PORT_NOT_ALLOWED, Reason.METHOD_NOT_ALLOWED, Reason.PATH_NOT_ALLOWED,
            Reason.EXPLICIT_DENY, Reason.IP_LITERAL, Reason.ADDRESS_NOT_ALLOWED, Reason.IDENTITY_MISMATCH,
            Reason.SNI_MISMATCH, Reason.SNI_MISSING, Reason.PROTOCOL_NOT_ALLOWED, Reason.LEASE_EXPIRED,
            Reason.LEASE_USED_UP, Reason.SECRET_LEAK, Reason.TOO_YOUNG,
        ),
        403,
    ),
    **dict.fromkeys((Reason.IDENTITY_MISSING, Reason.IDENTITY_INVALID, Reason.IDENTITY_EXPIRED), 407),
    **dict.fromkeys((Reason.HOST_HEADER_MISMATCH, Reason.MALFORMED_REQUEST), 400),
    Reason.LIMIT_EXCEEDED: 429,
    Reason.SECRET_ECHOED: 502,
    Reason.STORE_UNAVAILABLE: 503,
    **dict.fromkeys((Reason.POLICY_UNAVAILABLE, Reason.INTERNAL_ERROR), 503),
}  # fmt: skip


def decision(reason: Reason) -> Decision:
    return Decision(Verdict.DENY, reason, Request("api.example.com", 443, "GET", "/x"), "demo@v1")


def test_every_reason_has_its_status() -> None:
    assert set(STATUS) == set(Reason) - {Reason.ALLOWED}


@pytest.mark.parametrize(("reason", "status"), STATUS.items())
def test_a_refusal_is_answered_as_the_contract_says(reason: Reason, status: int) -> None:
    answer = answers.refused(Refusal("id-1", decision(reason), retry_after=7))
    fields = dict(answer.fields)
    assert answer.status == status
    assert fields["X-Cloned-Proxy-Reason"] == reason.value
    assert fields["Connection"] == "close"
    assert ("Proxy-Authenticate" in fields) is (status == 407)
    assert fields.get("Retry-After") == ("7" if status == 429 else None)
    content = json.loads(answer.body)
    assert list(content) == ["error", "reason", "tool", "host", "port", "method", "decision_id", "hint"]
    assert content | {"error": "", "hint": ""} == {
        "error": "", "reason": reason.value, "tool": "demo@v1", "host": "api.example.com", "port": 443,
        "method": "GET", "decision_id": "id-1", "hint": "",
    }  # fmt: skip
    wire = answer.encode()
    assert wire.startswith(f"HTTP/1.1 {status} ".encode())
    assert wire.endswith(b"\r\n\r\n" + answer.body)
    assert int(fields["Content-Length"]) == len(answer.body)
    assert answer.encode(with_body=False) == wire.removesuffix(answer.body)


@pytest.mark.parametrize(("timed_out", "status"), [(False, 502), (True, 504)])
@pytest.mark.parametrize("phase", ["resolve", "connect", "tls", "response"])
def test_an_upstream_failure_names_its_phase(phase: str, timed_out: bool, status: int) -> None:
    direct = answers.failed(UpstreamFailure(phase, timed_out), decision(Reason.ALLOWED), "id-1")
    refusal = Refusal("id-1", decision(Reason.ALLOWED), phase=phase, timed_out=timed_out)
    assert direct == answers.refused(refusal)
    assert direct.status == status
    assert json.loads(direct.body)["phase"] == phase
    assert "X-Cloned-Proxy-Reason" not in dict(direct.fields)


def test_the_explanation_of_a_malformed_head_is_its_hint() -> None:
    answer = answers.refused(Refusal("id-1", decision(Reason.MALFORMED_REQUEST)), status=431, explanation="too large")
    assert (answer.status, json.loads(answer.body)["hint"]) == (431, "too large")


def test_a_host_that_a_caller_made_long_is_echoed_only_in_part() -> None:
    long = Decision(Verdict.DENY, Reason.MALFORMED_REQUEST, Request("a" * 5000, 443))
    assert len(json.loads(answers.refused(Refusal("id-1", long)).body)["host"]) == 255


def phrase(refusal: Refusal) -> str:
    return answers.refused(refusal).encode().partition(b"\r\n")[0].decode("ascii").removeprefix("HTTP/1.1 ")


def denied(host: str = "api.example.com", tool: str | None = None) -> Decision:
    name = parse_host(host)
    return replace(decision(Reason.HOST_NOT_ALLOWED), host=name, tool=tool, request=Request(host, 443))


def test_the_reason_phrase_says_why_and_what_to_do() -> None:
    assert phrase(Refusal("id-1", denied())) == "403 host_not_allowed: cloned-proxy allow api.example.com"
    waits = Refusal("id-1", denied(), approval="a-1", inside=True)
    assert phrase(waits).startswith("403 host_not_allowed: request a-1 waits for a person: cloned-ask a-1")


def test_a_tool_inside_is_told_what_it_can_do_itself() -> None:
    refusal = Refusal("id-1", denied(tool="demo@v1"), inside=True)
    fix = "ask for it: cloned-ask api.example.com 'why' (or http://cloned.internal)"
    assert phrase(refusal) == f"403 host_not_allowed: {fix}"
    assert json.loads(answers.refused(refusal).body)["hint"] == fix


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason is not Reason.ALLOWED])
def test_no_tool_inside_is_told_a_command_that_it_cannot_run(reason: Reason) -> None:
    hosts = ("api.example.com", "192.0.2.7", "169.254.169.254", "cloned.internal", None)
    for host, approval in itertools.product(hosts, ("", "a-0123456789")):
        about = replace(decision(reason), host=parse_host(host) if host else None)
        refusal = Refusal("id-1", about, inside=True, approval=approval)
        hint = json.loads(answers.refused(refusal).body)["hint"]
        assert hint
        assert "cloned-proxy" not in f"{hint} {phrase(refusal)}"


def test_what_would_not_fit_into_a_phrase_is_told_elsewhere() -> None:
    long = ".".join(["a" * 60] * 4)
    assert phrase(Refusal("id-1", denied(long))) == "403 host_not_allowed: see cloned-proxy explain id-1"
    assert phrase(Refusal("id-1", denied(long), inside=True)) == "403 host_not_allowed: see http://cloned.internal"


@pytest.mark.parametrize("path", ["/caf\xe9", "/\u202egpj.exe", "/a\r\nX-Injected: 1", "/\x1b[2J", "/" + "a" * 5000])
def test_a_phrase_is_short_and_of_printable_ascii_whatever_was_asked_for(path: str) -> None:
    request = Request("api.example.com", 443, "GET", path)
    odd = replace(denied(), reason=Reason.PATH_NOT_ALLOWED, request=request)
    for inside in (False, True):
        wire = answers.refused(Refusal("id-1", odd, inside=inside)).encode()
        line = wire.partition(b"\r\n")[0]
        assert len(line) < 220
        assert all(0x20 <= byte < 0x7F for byte in line)
        assert b"X-Injected" not in wire.partition(b"\r\n\r\n")[0]


def test_only_a_denial_has_a_phrase_of_ours() -> None:
    assert phrase(Refusal("id-1", decision(Reason.IDENTITY_MISSING))) == "407 Proxy Authentication Required"
    assert phrase(Refusal("id-1", decision(Reason.LIMIT_EXCEEDED))) == "429 Too Many Requests"


def test_who_is_asked_for_a_credential_and_has_none_reads_in_the_phrase_what_to_do() -> None:
    asked = replace(denied(), reason=Reason.IDENTITY_MISSING, instead_of=Reason.HOST_NOT_ALLOWED)
    answer = answers.refused(Refusal("id-1", asked))
    assert ("Proxy-Authenticate", 'Basic realm="cloned-proxy"') in answer.fields
    assert answer.phrase.startswith("identity_missing: ")
    assert answer.phrase.endswith("without one: cloned-proxy allow api.example.com")
