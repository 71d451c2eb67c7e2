"""What a hostile page, a hostile client and a hostile tool try against the control address, and what they get."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator

import pytest

from tests.cli.program import Workspace
from tests.control.support import STRICT, Control, Reply, raw, stream

EVIL = "http://attacker.example"
RULE = json.dumps({"host": "attacker.example"}).encode()


@pytest.fixture
def policy_stands(workspace: Workspace) -> Iterator[None]:
    """Judges by the file: whatever was answered, no byte of it may have changed."""
    before = workspace.policy.read_bytes()
    yield
    assert workspace.policy.read_bytes() == before


def change(browser: Control, **headers: str | None) -> Reply:
    return browser.send("POST", "/api/v1/rules", RULE, headers)


def test_the_same_change_passes_without_the_attack(browser: Control, workspace: Workspace) -> None:
    """The control of this file: with everything in order the request that the attacks send does change the policy."""
    before = workspace.policy.read_bytes()
    reply = change(browser)
    assert reply.status == 200
    assert b"attacker.example" in workspace.policy.read_bytes()
    workspace.policy.write_bytes(before)


@pytest.mark.parametrize(
    "host",
    ["attacker.example", "attacker.example:{port}", "127.0.0.1", "127.0.0.1:1", "127.0.0.2:{port}", "0.0.0.0:{port}",
     "localhost.attacker.example:{port}", "127.0.0.1:{port}.attacker.example", "", "[::1]:{port}", "127.1:{port}",
     "user@127.0.0.1:{port}", "127.0.0.1:{port}, attacker.example"],
)  # fmt: skip
def test_a_rebound_name_gets_nothing(browser: Control, policy_stands: None, host: str) -> None:
    named = host.replace("{port}", str(browser.port))
    for path in ("/", "/pair", "/static/pair.js", "/api/v1/decisions"):
        reply = browser.get(path, Host=named)
        assert (reply.status, reply.strict) == (421, True), path
        assert "decision" not in reply.text
    assert change(browser, Host=named, Origin=f"http://{named}").status == 421


def test_two_host_fields_or_none_get_nothing(browser: Control) -> None:
    port = browser.port
    twice = f"GET /pair HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nHost: attacker.example\r\nConnection: close\r\n\r\n"
    assert raw(port, twice.encode()).split()[1] in (b"400", b"421")
    assert raw(port, b"GET /pair HTTP/1.1\r\nConnection: close\r\n\r\n").split()[1] == b"400"
    assert raw(port, b"GET /pair HTTP/1.0\r\n\r\n").split()[1] == b"421"


@pytest.mark.parametrize(
    "origin",
    [EVIL, "null", "http://127.0.0.1:1", "http://127.0.0.1", "https://127.0.0.1:{port}", "http://localhost:{port}",
     "http://127.0.0.1:{port}.attacker.example", "http://127.0.0.1:{port}/", "", "file://"],
)  # fmt: skip
def test_a_page_of_another_origin_changes_nothing(browser: Control, policy_stands: None, origin: str) -> None:
    assert change(browser, Origin=origin.replace("{port}", str(browser.port))).status == 403


def test_another_origin_reads_nothing_either(browser: Control) -> None:
    reply = browser.get("/api/v1/decisions", Origin=EVIL)
    assert reply.status == 403
    assert "access-control-allow-origin" not in reply.headers


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None])
def test_a_cross_site_form_changes_nothing(browser: Control, policy_stands: None, kind: str | None) -> None:
    form: dict[str, str | None] = {"Content-Type": kind, "X-Cloned-Request": None}
    assert change(browser, **{**form, "Origin": EVIL, "Sec-Fetch-Site": "cross-site"}).status == 403
    # As if the browser had said nothing, or the page were of this very origin: the form has no proof, or no JSON.
    assert change(browser, **form, Origin=None).status == 403
    assert change(browser, **form).status == 403
    assert change(browser, **{**form, "X-Cloned-Request": "1"}).status == 415


def test_a_change_needs_its_origin(browser: Control, policy_stands: None) -> None:
    assert change(browser, Origin=None).status == 403
    assert change(browser, Origin=None, **{"Sec-Fetch-Site": "same-origin"}).status == 403
    assert change(browser, **{"X-Cloned-Request": None}).status == 403
    assert change(browser, **{"X-Cloned-Request": "true"}).status == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site", "anything"])
def test_what_a_browser_says_comes_from_elsewhere_is_refused(browser: Control, policy_stands: None, site: str) -> None:
    assert change(browser, **{"Sec-Fetch-Site": site}).status == 403
    assert browser.get("/api/v1/decisions", **{"Sec-Fetch-Site": site}).status == 403
    assert browser.get("/", **{"Sec-Fetch-Site": site}).status == 403


def test_pairing_needs_a_page_of_this_origin(control: Control) -> None:
    code = control.code()
    for headers in ({"Origin": EVIL}, {"Origin": None}, {"X-Cloned-Request": None}):
        assert control.post("/pair", {"code": code}, **headers).status == 403
    assert control.post("/pair", {"code": code}).status == 200


def test_who_is_not_paired_gets_the_pairing_page_and_nothing_else(control: Control, browser: Control) -> None:
    assert control.get("/").headers["location"] == "/pair"
    assert control.get("/pair").status == 200
    document = browser.api("/openapi.json")
    for path, methods in document["paths"].items():
        for method in methods:
            if path == "/api/v1/pair":
                continue
            reply = control.send(method.upper(), path.replace("{id}", "0" * 24).replace("{version}", "0" * 12))
            assert reply.status == 401, (method, path)
    for path in ("/static/app.js", "/static/live.js", "/static/index.html", "/nowhere", "/api/v1/nowhere", "/api/v1/"):
        assert control.get(path).status == 401, path
    assert browser.get("/static/app.js").status == 200


@pytest.mark.parametrize("value", ["", "x", "Bearer", "Bearer ", "Basic eDp5", "Bearer " + "A" * 43, "Bearer a b"])
def test_a_credential_that_is_none_is_refused(browser: Control, value: str) -> None:
    assert browser.get("/api/v1/session", Authorization=value).status == 401


@pytest.mark.parametrize(
    "path",
    ["/static/../__main__.py", "/static/..%2f__main__.py", "/static/%2e%2e/%2e%2e/store/workspaces/devices.py",
     "/static//etc/passwd", "/static/..\\__main__.py", "/static/", "/static/.", "/static/%00", "//etc/passwd",
     "/static/pair.html%00.js",
     "/../../../etc/passwd", "/static/index.html/../../app.py"],
)  # fmt: skip
def test_no_path_leads_out_of_the_static_files(browser: Control, path: str) -> None:
    reply = browser.get(path)
    assert reply.status == 404
    assert "import" not in reply.text
    assert "root:" not in reply.text


def test_every_answer_carries_the_strict_headers(browser: Control, control: Control) -> None:
    big = b"x" * 70_000
    answers = [
        browser.get("/"),
        browser.get("/static/app.js"),
        browser.get("/nowhere"),
        browser.get("/api/v1/overview"),
        browser.get("/api/v1/decisions?limit=no"),
        browser.send("HEAD", "/"),
        browser.send("OPTIONS", "/api/v1/rules"),
        browser.send("TRACE", "/"),
        browser.send("POST", "/api/v1/rules", b"{"),
        browser.send("POST", "/api/v1/rules", big),
        control.get("/"),
        control.get("/pair"),
        control.get("/api/v1/session"),
        control.post("/pair", {"code": 1}),
        browser.get("/pair", Host="attacker.example"),
    ]
    assert {reply.status for reply in answers} >= {200, 303, 400, 401, 404, 405, 413, 421, 422}
    assert [reply for reply in answers if not reply.strict] == []
    assert [reply.headers.get("server") for reply in answers if "server" in reply.headers] == []


def test_the_stream_and_what_is_not_http_carry_them_too(browser: Control) -> None:
    with stream(browser) as opened:
        assert {name: opened.response.headers[name] for name in STRICT} == STRICT
    told = raw(browser.port, b"\x16\x03\x01 this is not HTTP\r\n\r\n").lower()
    assert told.startswith(b"http/1.1 400")
    assert all(f"{name}: {value}".lower().encode() in told for name, value in STRICT.items())


def test_head_and_options_tell_nothing_more(browser: Control, control: Control) -> None:
    assert browser.send("HEAD", "/").text == ""
    assert browser.send("HEAD", "/api/v1/decisions").status == 405
    preflight = {"Access-Control-Request-Method": "POST", "Origin": EVIL}
    reply = browser.send("OPTIONS", "/api/v1/rules", headers=preflight)
    assert reply.status == 403
    assert not [name for name in reply.headers if name.startswith("access-control")]
    assert control.send("OPTIONS", "/api/v1/rules", headers={"Origin": None}).status == 401


def test_no_header_is_injected_by_a_name_or_a_path(control: Control, browser: Control) -> None:
    split = "x\r\nSet-Cookie: planted=1"
    reply = control.post("/pair", {"code": control.code(), "name": split})
    assert reply.status == 422
    assert "planted" not in str(reply.headers)
    assert "set-cookie" not in browser.get("/static/x%0d%0aSet-Cookie:%20planted=1").headers
    assert browser.post("/rules", {"host": "a.example", "reason": split}).status == 422


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 422),
        (b"null", 422),
        (b'"x"', 422),
        (b"{}", 422),
        (b"\xff\xfe", 400),
        (b'{"host": "a.example", "host": "b.example"}', 400),
        (b'{"host": "a.example", "uses": NaN}', 400),
        (b"[" * 60_000, 400),
        (b'{"host": "a.example"} trailing', 400),
        (b'{"host": 1}', 422),
        (b'{"host": ["a.example"]}', 422),
        (b'{"host": "a.example", "ports": ["443"]}', 422),
        (b'{"host": "a.example", "ports": [0]}', 422),
        (b'{"host": "a.example", "ports": [65536]}', 422),
        (b'{"host": "a.example", "ports": [true]}', 422),
        (b'{"host": "a.example", "ports": 443}', 422),
        (b'{"host": "a.example", "unknown": 1}', 422),
        (b'{"host": "a.example", "uses": 0}', 422),
        (b'{"host": "a.example", "uses": 1.5}', 422),
        (b'{"host": "a.example", "uses": "3"}', 422),
        (b'{"host": "a.example", "uses": 1e400}', 422),
        (b'{"host": "a.example", "for": "soon"}', 422),
        (b'{"host": "a.example", "for": -1}', 422),
        (b'{"host": "a.example", "for": true}', 422),
        (b'{"host": "a.example", "tool": "not a tool"}', 422),
        (b'{"host": "a.example", "action": "maybe"}', 422),
        (b'{"host": "a.example", "expected_version": "x"}', 422),
        (b'{"host": "*"}', 422),
        (b'{"host": "*.com"}', 422),
        (b'{"host": "https://a.example/"}', 422),
        (b'{"host": "\\ud800"}', 422),
        (b'{"host": "a.example", "paths": ["no-slash"]}', 422),
        (b'{"host": "a.example", "methods": ["get it"]}', 422),
        (b'{"host": "a.example", "reason": "two\\nlines"}', 422),
        (b"x" * 70_000, 413),
    ],
)
def test_a_bad_body_is_refused_by_name_and_changes_nothing(
    browser: Control, policy_stands: None, body: bytes, status: int
) -> None:
    reply = browser.send("POST", "/api/v1/rules", body)
    assert reply.status == status, reply
    assert {"error", "message", "fields"} <= reply.json.keys()
    assert reply.json["message"]
    if status == 422 and body.startswith(b'{"'):
        assert reply.json["fields"]


@pytest.mark.parametrize("encoding", ["chunked", "length"])
def test_a_huge_body_is_not_read(browser: Control, policy_stands: None, encoding: str) -> None:
    head = f"POST /api/v1/rules HTTP/1.1\r\nHost: 127.0.0.1:{browser.port}\r\nCookie: {browser.cookie}\r\n"
    head += f"Origin: {browser.origin}\r\nX-Cloned-Request: 1\r\nContent-Type: application/json\r\n"
    head += "Transfer-Encoding: chunked\r\n\r\n" if encoding == "chunked" else "Content-Length: 10000000000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", browser.port), timeout=90) as sock:
        sock.sendall(head.encode())
        if encoding == "chunked":
            for _ in range(3):
                sock.sendall(b"8000\r\n" + b"x" * 0x8000 + b"\r\n")
        assert sock.recv(4096).split()[1] == b"413"


def test_a_slow_body_and_a_slow_head_are_ended_and_hold_up_nobody(browser: Control, policy_stands: None) -> None:
    head = f"POST /api/v1/rules HTTP/1.1\r\nHost: 127.0.0.1:{browser.port}\r\nCookie: {browser.cookie}\r\n"
    head += f"Origin: {browser.origin}\r\nX-Cloned-Request: 1\r\nContent-Type: application/json\r\n"
    with (
        socket.create_connection(("127.0.0.1", browser.port), timeout=40) as body,
        socket.create_connection(("127.0.0.1", browser.port), timeout=40) as unfinished,
    ):
        body.sendall(head.encode() + b"Content-Length: 100\r\n\r\n{")
        unfinished.sendall(b"GET / HTTP/1.1\r\nHost:")
        began = time.monotonic()
        assert browser.get("/api/v1/session").status == 200
        assert body.recv(4096).split()[1] == b"408"
        assert unfinished.recv(1) == b""
        assert time.monotonic() - began > 5, "the deadline, not a refusal at once"


def test_a_crowd_of_idle_connections_does_not_lock_others_out(browser: Control) -> None:
    crowd = [socket.create_connection(("127.0.0.1", browser.port), timeout=90) for _ in range(120)]
    try:
        assert browser.get("/api/v1/session").status == 200
    finally:
        for sock in crowd:
            sock.close()
