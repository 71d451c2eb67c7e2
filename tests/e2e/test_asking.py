"""Asking for more: a denied tool asks, a person decides, and the judge is what arrives at a canary."""

from __future__ import annotations

import contextlib
import json
import ssl
import subprocess
import threading
from collections.abc import Iterator

import pytest

from tests.net.asker import ASKING_GUARDS, REQUESTS, Answer, Asker, Call, awaited, decide, pending, requests_of
from tests.net.proxy_process import PROGRAM, ProxyOptions, ProxyProcess
from tests.net.world import World
from tests.waiting import eventually

pytestmark = pytest.mark.net

CONFIG = "approvals: {requests_per_minute: 500, pending_per_tool: 500, pending: 900, held_per_tool: 2}\n"
POLICY = """
version: 1
anonymous: global
global:
  allow: [free.example.com]
  deny: [denied.example.com]
tools:
  plain@v1: {}
  other@v1: {}
  broad@v1: {may_request: [self, global, plain@v1]}
  mute@v1: {may_request: []}
  asks@v1: {on_deny: ask}
  holds@v1:
    on_deny: ask
    hold: 60s
    allow: [{host: api.example.com, methods: [GET], paths: [/only]}]
  brief@v1: {on_deny: ask, hold: 300ms}
  narrow@v1: {on_deny: ask, hold: 60s, limits: {concurrent: 1}}
  opened@v1:
    on_deny: ask
    hold: 60s
    limits: {concurrent: 2}
    allow: [{host: api.example.com, methods: [GET], paths: [/only]}]
"""


@pytest.fixture(scope="module")
def proxy(world: World) -> Iterator[ProxyProcess]:
    running = world.serve(POLICY, ProxyOptions(config=CONFIG))
    yield running
    running.stop()


@pytest.fixture
def clean(world: World, proxy: ProxyProcess) -> ProxyProcess:
    """The proxy with its policy as it was, no open request, and nothing remembered outside."""
    for request in pending(proxy):
        requests_of(proxy).reject(request["id"], actor="cli:test")
    if proxy.policy.read_text() != POLICY:
        proxy.edit_policy(POLICY)
    world.reset()
    return proxy


def test_a_tool_asks_gets_a_lease_and_loses_it_with_its_tunnel(world: World, clean: ProxyProcess) -> None:
    tool, marker = Asker(clean, "plain@v1"), world.marker()
    before = clean.policy.read_bytes(), clean.policy.stat().st_mtime_ns
    refused = tool.tls("docs.example.com")
    assert isinstance(refused, Answer)
    assert refused.status == 403
    asked = tool.ask("docs.example.com", for_="1m", reason="to read the docs")
    assert asked.status == 202
    approval = asked.content["id"]
    assert tool.state(approval) == "pending"
    assert (clean.policy.read_bytes(), clean.policy.stat().st_mtime_ns) == before
    assert isinstance(tool.tls("docs.example.com"), Answer)
    shown = clean.command("approvals", "show", approval).stdout
    for words in ("allow docs.example.com for plain@v1", "'to read the docs'", "docs.example.com  plain@v1  2"):
        assert words in shown
    assert not world.touched("docs.example.com")
    printed = decide(clean, "approve", approval, "--for", "8s")  # the first tunnel of a busy machine takes its time
    assert "allow docs.example.com until 2" in printed
    tunnel = tool.tls("docs.example.com")
    assert isinstance(tunnel, ssl.SSLSocket)
    with tunnel:
        tunnel.sendall(f"GET /{marker} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert b"200 OK" in tunnel.recv(4096)
        assert world.saw(marker)
        assert tool.state(approval) == "approved"
        tunnel.settimeout(60)
        with contextlib.suppress(OSError):  # a reset, or an end: the lease is over
            while tunnel.recv(4096):
                pass
    late = tool.tls("docs.example.com")
    assert isinstance(late, Answer)
    assert late.content["reason"] == "lease_expired"

    def steps() -> list[tuple[str, str]]:
        return [(e["action"], e["actor"].partition(":")[0]) for e in clean.log() if e.get("approval") == approval]

    eventually(lambda: steps() == [("asked", "tool"), ("approved", "cli")])


def test_a_denied_call_becomes_one_request_that_counts(clean: ProxyProcess) -> None:
    tool = Asker(clean, "asks@v1")
    first = tool.get("http://docs.example.com/a").content
    assert first["reason"] == "host_not_allowed"
    assert first["hint"] == (
        f"request {first['approval']} waits for a person: cloned-proxy approvals approve {first['approval']}"
    )
    for path in "bcd":
        assert tool.get(f"http://docs.example.com/{path}").content["approval"] == first["approval"]
    (request,) = pending(clean)
    assert request["entries"] == [{"host": "docs.example.com", "ports": [80], "methods": ["GET"], "paths": ["/a"]}]
    eventually(lambda: pending(clean)[0]["denied_count"] == 4)
    decide(clean, "approve", first["approval"], "--narrowest", "--for", "1m")
    eventually(lambda: tool.get("http://docs.example.com/d").status == 200)
    assert tool.get("http://docs.example.com/e").status == 403


NEVER_ASKED = [
    pytest.param("http://denied.example.com/", "explicit_deny", id="an explicit deny"),
    pytest.param("http://93.184.216.10/", "ip_literal", id="an address"),
    pytest.param("http://0x7f.1/", "ip_literal", id="another spelling of an address"),
    pytest.param("http://a..b/", "malformed_request", id="no host"),
]


@pytest.mark.parametrize(("url", "reason"), NEVER_ASKED)
def test_what_a_rule_would_not_mend_is_not_asked_for(clean: ProxyProcess, url: str, reason: str) -> None:
    answer = Asker(clean, "asks@v1").get(url)
    assert answer.content["reason"] == reason
    assert "approval" not in answer.content
    assert pending(clean) == []


def test_a_call_is_held_until_it_is_approved_and_goes_through(world: World, clean: ProxyProcess) -> None:
    tool, marker = Asker(clean, "holds@v1"), world.marker()
    with contextlib.closing(tool.begin("GET", f"http://docs.example.com/{marker}")) as call:
        (request,) = awaited(clean, call)
        assert not world.touched("docs.example.com")
        decide(clean, "approve", request["id"], "--for", "1m")
        assert call.answer().status == 200
    assert world.saw(marker)


def test_a_connect_is_held_until_it_is_approved(world: World, clean: ProxyProcess) -> None:
    tool = Asker(clean, "holds@v1")
    with contextlib.closing(tool.begin("CONNECT", "docs.example.com:443")) as call:
        (request,) = awaited(clean, call)
        decide(clean, "approve", request["id"], "--uses", "1")
        assert call.answer("CONNECT").status == 200
        context = ssl.create_default_context(cafile=world.certificate)
        with context.wrap_socket(call.connection, server_hostname="docs.example.com") as tunnel:
            tunnel.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"200 OK" in tunnel.recv(4096)


def test_a_request_inside_opened_tls_is_held_as_well(world: World, clean: ProxyProcess) -> None:
    tool, marker = Asker(clean, "holds@v1"), world.marker()
    context = ssl.create_default_context(cafile=clean.command("ca", "path").stdout.strip())
    call = tool.begin("CONNECT", "api.example.com:443")
    assert call.answer("CONNECT").status == 200
    with context.wrap_socket(call.connection, server_hostname="api.example.com") as inside:
        inside.settimeout(30)
        inside.sendall(f"GET /other/{marker} HTTP/1.1\r\nHost: api.example.com\r\n\r\n".encode())
        eventually(lambda: pending(clean))
        (request,) = pending(clean)
        assert request["entries"][0]["paths"] == [f"/other/{marker}"]
        assert not world.saw(marker)
        decide(clean, "approve", request["id"], "--for", "1m")
        assert b"200 OK" in inside.recv(4096)
    assert world.saw(marker)


def test_a_no_ends_the_wait_and_nothing_is_asked_twice(world: World, clean: ProxyProcess) -> None:
    tool = Asker(clean, "holds@v1")
    with contextlib.closing(tool.begin("GET", "http://refused.example.com/")) as call:
        (request,) = awaited(clean, call)
        decide(clean, "reject", request["id"])
        answer = call.answer()
    assert answer.status == 403
    assert "approval" not in answer.content
    assert tool.get("http://refused.example.com/").status == 403  # at once, for a client that waits for 30 s
    assert pending(clean) == []
    assert not world.touched("refused.example.com")


def test_where_nobody_answers_the_call_ends_by_itself(clean: ProxyProcess) -> None:
    answer = Asker(clean, "brief@v1").get("http://nobody.example.com/")
    assert answer.status == 403
    assert answer.content["approval"] == pending(clean)[0]["id"]


def test_held_calls_are_few_and_cost_others_nothing(world: World, clean: ProxyProcess) -> None:
    tool = Asker(clean, "holds@v1")
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(contextlib.closing(tool.begin("GET", f"http://h{n}.example.com/"))) for n in (1, 2)]
        awaited(clean, *held)
        third = tool.get("http://h3.example.com/")
        assert third.status == 403
        assert "approval" in third.content
        assert all(call.waits(0.1) for call in held)
        assert tool.get("http://free.example.com/").status == 200
        assert Asker(clean, "plain@v1").get("http://free.example.com/").status == 200


def test_a_held_call_counts_as_one_of_the_tools_flows(clean: ProxyProcess) -> None:
    tool = Asker(clean, "narrow@v1")
    with contextlib.closing(tool.begin("GET", "http://held.example.com/")) as call:
        awaited(clean, call)
        assert tool.get("http://free.example.com/").status == 429


@pytest.mark.parametrize("method", ["GET", "CONNECT"])
def test_a_client_that_leaves_frees_its_place(clean: ProxyProcess, method: str) -> None:
    tool = Asker(clean, "narrow@v1")
    target = "http://left.example.com/" if method == "GET" else "left.example.com:443"
    eventually(lambda: tool.get("http://free.example.com/").status == 200)  # the test before may still be leaving
    call = tool.begin(method, target)
    awaited(clean, call)
    assert tool.get("http://free.example.com/").status == 429
    call.close()
    eventually(lambda: tool.get("http://free.example.com/").status == 200)


def test_a_client_that_leaves_opened_tls_frees_its_place(clean: ProxyProcess) -> None:
    tool = Asker(clean, "opened@v1")
    eventually(lambda: tool.get("http://free.example.com/").status == 200)
    context = ssl.create_default_context(cafile=clean.command("ca", "path").stdout.strip())
    call = tool.begin("CONNECT", "api.example.com:443")
    assert call.answer("CONNECT").status == 200
    with context.wrap_socket(call.connection, server_hostname="api.example.com") as inside:
        inside.sendall(b"GET /left HTTP/1.1\r\nHost: api.example.com\r\n\r\n")
        eventually(lambda: pending(clean))
        assert tool.get("http://free.example.com/").status == 429
    eventually(lambda: tool.get("http://free.example.com/").status == 200)


def test_all_workers_hold_and_follow(world: World) -> None:
    options = ProxyOptions(program=(PROGRAM, "serve", "--workers", "2"), config=CONFIG)
    proxy = world.serve(POLICY, options)
    try:
        tool = Asker(proxy, "holds@v1")
        calls = [tool.begin("GET", "http://docs.example.com/same") for _ in range(3)]
        eventually(lambda: pending(proxy))
        assert sum(call.waits(0.2) for call in calls) >= 2
        (request,) = pending(proxy)
        decide(proxy, "approve", request["id"], "--for", "1m")
        statuses = sorted(call.answer().status for call in calls)
        assert statuses[:2] == [200, 200]
        for call in calls:
            call.close()
    finally:
        proxy.stop()


# The proxy's own name.


FORGED = [
    pytest.param(None, "", 407, "identity_missing", id="nobody"),
    pytest.param(None, "X-Cloned-Tool: plain@v1\r\n", 407, "identity_missing", id="a bare name"),
    pytest.param(None, "Proxy-Authorization: Bearer v1.e30.x\r\n", 407, "identity_invalid", id="a made-up token"),
    pytest.param("plain@v1", "X-Cloned-Tool-Token: v1.e30.x\r\n", 407, "identity_invalid", id="a second token"),
]


@pytest.mark.parametrize(("tool", "extra", "status", "reason"), FORGED)
def test_only_a_tool_with_its_own_credential_may_ask(
    clean: ProxyProcess, tool: str | None, extra: str, status: int, reason: str
) -> None:
    answer = Asker(clean, tool).call("POST", REQUESTS, b'{"domains": ["evil.example.com"]}', extra)
    assert (answer.status, answer.content["reason"]) == (status, reason)
    assert pending(clean) == []


def test_a_tool_cannot_ask_for_another_or_look_at_its_requests(clean: ProxyProcess) -> None:
    plain, other, broad = (Asker(clean, tool) for tool in ("plain@v1", "other@v1", "broad@v1"))
    for refused in (other.ask("evil.example.com", tool_id="plain@v1"), other.ask("evil.example.com", scope="global")):
        assert refused.status == 403
        assert "may_request" in refused.content["message"]
    assert Asker(clean, "mute@v1").ask("evil.example.com").status == 403
    assert pending(clean) == []
    mine = broad.ask("fine.example.com", tool_id="plain@v1").content["id"]
    assert broad.state(mine) == "pending"
    for stranger in (plain, other):
        assert stranger.get(f"{REQUESTS}/{mine}").status == 404

    def refused_on_record() -> set[str]:
        return {e["tool"] for e in clean.log() if e["type"] == "approval" and e["action"] == "refused"}

    eventually(lambda: refused_on_record() >= {"other@v1", "mute@v1"})


SPELLINGS = ["cloned.internal", "CLONED.internal", "cloned.internal.", "Cloned.Internal."]


@pytest.mark.parametrize("name", SPELLINGS)
def test_our_name_is_answered_here_however_it_is_written(world: World, clean: ProxyProcess, name: str) -> None:
    tool = Asker(clean, "plain@v1")
    assert tool.get(f"http://{name}/v1/egress/requests/a-0000000000").content["error"] == "unknown_request"
    connect = tool.call("CONNECT", f"{name}:443")
    assert connect.status == 403
    assert "http://cloned.internal/v1/egress/requests" in connect.content["hint"]
    assert [asked for asked in world.dns_names() if "cloned" in asked] == []


def test_our_name_is_never_looked_up_even_where_everything_passes(world: World) -> None:
    proxy = world.serve("version: 1\nmode: report\nglobal: {allow: [cloned.internal]}\n")
    try:
        tool = Asker(proxy, "plain@v1")
        page = tool.get("http://cloned.internal/")
        assert (page.status, page.fields["content-type"]) == (200, "text/plain; charset=us-ascii")
        assert tool.get("http://cloned.internal:8080/x").status == 404
        assert tool.call("CONNECT", "cloned.internal:443").status == 403
        assert tool.call("CONNECT", "cloned.internal:80").status == 403
        assert Asker(proxy, None).get("http://cloned.internal/").status == 407
        assert [asked for asked in world.dns_names() if "cloned" in asked] == []
    finally:
        proxy.stop()


def test_a_host_field_that_says_cloned_internal_opens_nothing(world: World, clean: ProxyProcess) -> None:
    tool, marker = Asker(clean, "plain@v1"), world.marker()
    head = f"GET http://free.example.com/{marker} HTTP/1.1\r\nHost: cloned.internal\r\n{tool.credential}\r\n"
    with contextlib.closing(Call(clean.connect(), head)) as call:
        assert call.answer().content["reason"] == "host_header_mismatch"
    head = f"POST {REQUESTS} HTTP/1.1\r\nHost: free.example.com\r\n{tool.credential}\r\n"
    with contextlib.closing(Call(clean.connect(), head)) as call:
        assert call.answer().content["reason"] == "host_header_mismatch"
    world.settle()
    assert not world.saw(marker)
    assert pending(clean) == []


BAD_BODIES = [
    pytest.param(b"", 400, id="nothing"),
    pytest.param(b"{", 400, id="no JSON"),
    pytest.param(b"[]", 400, id="a list"),
    pytest.param(b"\xff\xfe", 400, id="no text"),
    pytest.param(b'{"domains": ["a.example.com"], "domains": ["evil.test"]}', 400, id="a key twice"),
    pytest.param(b'{"domains": ["a.example.com"], "admin": true}', 400, id="an unknown key"),
    pytest.param(b'{"domains": "a.example.com"}', 400, id="a text for a list"),
    pytest.param(b'{"domains": [1]}', 400, id="a number for a text"),
    pytest.param(b'{"domains": []}', 400, id="no host"),
    pytest.param(b'{"domains": ["a.example.com"], "uses": "1"}', 400, id="a text for a number"),
    pytest.param(b'{"domains": ["a.example.com"], "uses": NaN}', 400, id="no number"),
    pytest.param(b'{"domains": ["a.example.com"], "for": true}', 400, id="a truth for a time"),
    pytest.param(b'{"domains": ["*"]}', 400, id="everything"),
    pytest.param(b'{"domains": ["169.254.169.254"]}', 400, id="the metadata service"),
    pytest.param(b'{"domains": ["a.example.com\\nallow: [evil.test]"]}', 400, id="YAML"),
    pytest.param(b'{"domains": ["\\u001b[2Ja.example.com"]}', 400, id="control characters"),
    pytest.param(b'{"domains": ["free.example.com"], "scope": "global"}', 403, id="everybody"),
    pytest.param(b"[" * 16_000, 400, id="a deep nest"),
    pytest.param(b" " * 16_385, 413, id="too much"),
    pytest.param(b'{"domains": ["a.example.com"], "reason": "' + b"x" * 5000 + b'"}', 400, id="a long story"),
]


@pytest.mark.parametrize(("body", "status"), BAD_BODIES)
def test_a_bad_body_is_refused_with_a_line_that_says_why(clean: ProxyProcess, body: bytes, status: int) -> None:
    answer = Asker(clean, "plain@v1").call("POST", REQUESTS, body)
    assert answer.status == status
    assert answer.content["error"]
    assert answer.content["message"].isprintable()
    assert pending(clean) == []


def test_a_body_without_an_end_or_without_haste_is_bounded(clean: ProxyProcess) -> None:
    tool = Asker(clean, "plain@v1")
    chunked = tool.begin("POST", REQUESTS, extra="Transfer-Encoding: chunked\r\n")
    with contextlib.suppress(OSError):
        for _ in range(64):
            chunked.connection.sendall(b"400\r\n" + b"x" * 1024 + b"\r\n")
    assert chunked.answer().status == 413
    slow = tool.begin("POST", REQUESTS, extra="Content-Length: 100\r\n")
    slow.connection.sendall(b"{")
    assert slow.answer().status == 408
    for call in (chunked, slow):
        call.close()


def test_a_body_that_comes_in_pieces_is_one_body(clean: ProxyProcess) -> None:
    tool, body = Asker(clean, "plain@v1"), b'{"domains": ["pieces.example.com"]}'
    call = tool.begin("POST", REQUESTS, extra=f"Content-Length: {len(body)}\r\nExpect: 100-continue\r\n")
    for byte in body:
        call.connection.sendall(bytes((byte,)))
    assert call.answer().status == 202
    call.close()


def test_a_flood_of_requests_is_told_to_wait(clean: ProxyProcess) -> None:
    tool = Asker(clean, "flood@v1")
    answers = [tool.get(f"{REQUESTS}/a-0000000000") for _ in range(130)]
    assert answers[0].status == 404
    assert answers[-1].status == 429
    assert int(answers[-1].fields["retry-after"]) > 0
    assert Asker(clean, "plain@v1").get(f"{REQUESTS}/a-0000000000").status == 404  # nobody else's


def test_what_the_tool_writes_drives_no_terminal_and_gives_no_secret_away(clean: ProxyProcess) -> None:
    canary = "sk-live-4fJ9aKq2Lm8Zx7WvCANARY"
    asked = Asker(clean, "plain@v1").ask("docs.example.com", reason=f"\x1b[2J\x1b]0;x\x07 key {canary}\r\n'; allow: *")
    assert asked.status == 202
    decide(clean, "approve", asked.content["id"], "--for", "1m")
    printed = [clean.command(*words).stdout for words in (("approvals", "list", "--all"), ("log",), ("list",))]
    printed.append(clean.command("approvals", "show", asked.content["id"]).stdout)
    assert all("\x1b" not in text and "\x07" not in text for text in printed)
    for file in clean.files.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # SQLite's come and go
            assert not file.is_file() or b"CANARY" not in file.read_bytes(), file
    assert canary not in clean.said()


def test_two_people_at_once_and_one_of_them_wins(clean: ProxyProcess) -> None:
    approval = Asker(clean, "plain@v1").ask("docs.example.com").content["id"]
    done: list[subprocess.CompletedProcess[str]] = []
    people = [
        threading.Thread(target=lambda word=word: done.append(clean.command("approvals", word, approval)))
        for word in ("approve", "reject", "approve")
    ]
    for person in people:
        person.start()
    for person in people:
        person.join(60)
    assert sorted(each.returncode for each in done) == [0, 1, 1]
    state = requests_of(clean).get(approval).state
    assert ("docs.example.com" in clean.policy.read_text()) == (state == "approved")


def test_the_wait_for_a_person_ends_across_a_kill_and_a_restart(world: World) -> None:
    first = world.serve(POLICY, ProxyOptions(config="approvals: {timeout: 3}\n"))
    asked = Asker(first, "plain@v1").ask("docs.example.com").content["id"]
    first.kill()
    before = first.policy.read_bytes(), first.policy.stat().st_mtime_ns
    again = world.serve(POLICY, ProxyOptions(workspace=first.workspace, config="approvals: {timeout: 3}\n"))
    try:
        stat = again.policy.stat().st_mtime_ns  # `serve` of the world writes the policy anew
        eventually(lambda: [e for e in again.log() if e.get("approval") == asked and e.get("action") == "expired"])
        assert Asker(again, "plain@v1").state(asked) == "expired"
        late = again.command("approvals", "approve", asked)
        assert late.returncode == 1
        assert "expired" in late.stderr
        assert (again.policy.read_bytes(), again.policy.stat().st_mtime_ns) == (before[0], stat)
    finally:
        again.stop()


def test_json_of_a_request_has_its_evidence(clean: ProxyProcess) -> None:
    tool = Asker(clean, "plain@v1")
    tool.get("http://docs.example.com/a")
    asked = tool.ask("*.example.com").content["id"]
    eventually(lambda: json.loads(clean.command("approvals", "show", asked, "--json").stdout)["evidence"]["denied"])
    evidence = json.loads(clean.command("approvals", "show", asked, "--json").stdout)["evidence"]
    assert {"host": "docs.example.com", "ports": [80], "methods": ["GET"], "paths": ["/a"]} in evidence["narrowest"]
    assert any("one more label" in note for note in evidence["notes"])


@pytest.mark.parametrize("without", [(), ASKING_GUARDS], ids=["guarded", "guards removed"])
def test_each_guard_stops_its_attack(world: World, without: tuple[str, ...]) -> None:
    world.reset()
    proxy = world.serve("version: 1\nmode: report\n", ProxyOptions(without=without, config=CONFIG))
    try:
        plain, other = Asker(proxy, "plain@v1"), Asker(proxy, "other@v1")
        mine = plain.ask("docs.example.com", reason="password=hunter2CANARY").content["id"]
        got_through = {
            "who may ask": other.ask("docs.example.com", tool_id="plain@v1").status == 202,
            "whose request it is": other.get(f"{REQUESTS}/{mine}").status == 200,
            "our own name": other.call("CONNECT", "cloned.internal:443").status != 403
            or "cloned.internal" in asked(world),
            "redaction": any(b"CANARY" in file.read_bytes() for file in proxy.files.glob("state.db*")),
        }
    finally:
        proxy.kill()
    assert got_through == dict.fromkeys(ASKING_GUARDS, bool(without))


def asked(world: World) -> str:
    """The names that reached the DNS server."""
    return " ".join(world.dns_names())
