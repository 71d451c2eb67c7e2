from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloned_proxy.policy.terms.vocabulary import Reason
from cloned_proxy.proxy.wire.head import Head, HeadError, TargetForm, parse_head

HOST = b"Host: example.com\r\n"

REFUSED = {
    "bare LF after the request line": b"GET http://example.com/ HTTP/1.1\nHost: example.com\r\n\r\n",
    "bare LF after a field": b"GET http://example.com/ HTTP/1.1\r\nHost: example.com\n\r\n",
    "bare CR in a value": b"GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\nX: a\rb\r\n\r\n",
    "bare CR in the request line": b"GET http://example.com/\r HTTP/1.1\r\nHost: example.com\r\n\r\n",
    "NUL in a value": b"GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\nX: a\0b\r\n\r\n",
    "control character in a value": b"GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\nX: a\x0bb\r\n\r\n",
    "DEL in a value": b"GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\nX: a\x7fb\r\n\r\n",
    "obs-fold": b"GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\nX: a\r\n b\r\n\r\n",
    "obs-fold at the first field": b"GET http://example.com/ HTTP/1.1\r\n Host: example.com\r\n\r\n",
    "space before the colon": b"GET http://example.com/ HTTP/1.1\r\nHost : example.com\r\n\r\n",
    "empty field name": b"GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\n: x\r\n\r\n",
    "no colon": b"GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\nX\r\n\r\n",
    "separator in a field name": b"GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\nX(y): z\r\n\r\n",
    "non-ASCII field name": b"GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\n\xc3\xa9: z\r\n\r\n",
    "two spaces after the method": b"GET  http://example.com/ HTTP/1.1\r\n" + HOST + b"\r\n",
    "two spaces before the version": b"GET http://example.com/  HTTP/1.1\r\n" + HOST + b"\r\n",
    "tab instead of space": b"GET\thttp://example.com/ HTTP/1.1\r\n" + HOST + b"\r\n",
    "space before the method": b" GET http://example.com/ HTTP/1.1\r\n" + HOST + b"\r\n",
    "space after the version": b"GET http://example.com/ HTTP/1.1 \r\n" + HOST + b"\r\n",
    "space in the target": b"GET http://example.com/a b HTTP/1.1\r\n" + HOST + b"\r\n",
    "empty line first": b"\r\nGET http://example.com/ HTTP/1.1\r\n" + HOST + b"\r\n",
    "no version": b"GET http://example.com/\r\n" + HOST + b"\r\n",
    "version 9.9": b"GET http://example.com/ HTTP/9.9\r\n" + HOST + b"\r\n",
    "version 1.2": b"GET http://example.com/ HTTP/1.2\r\n" + HOST + b"\r\n",
    "version 1.10": b"GET http://example.com/ HTTP/1.10\r\n" + HOST + b"\r\n",
    "lower-case version": b"GET http://example.com/ http/1.1\r\n" + HOST + b"\r\n",
    "the HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\n",
    "method is no token": b"G@T http://example.com/ HTTP/1.1\r\n" + HOST + b"\r\n",
    "non-ASCII target": b"GET http://example.com/\xc3\xa9 HTTP/1.1\r\n" + HOST + b"\r\n",
    "two Hosts": b"GET http://example.com/ HTTP/1.1\r\n" + HOST + HOST + b"\r\n",
    "two Hosts of different case": b"GET http://example.com/ HTTP/1.1\r\n" + HOST + b"hOST: example.com\r\n\r\n",
    "no Host in 1.1": b"GET http://example.com/ HTTP/1.1\r\n\r\n",
    "userinfo in Host": b"GET http://example.com/ HTTP/1.1\r\nHost: a@example.com\r\n\r\n",
    "a list in Host": b"GET http://example.com/ HTTP/1.1\r\nHost: example.com evil.example\r\n\r\n",
    "empty Host": b"GET http://example.com/ HTTP/1.1\r\nHost:\r\n\r\n",
    "Content-Length twice": b"GET http://example.com/ HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\n" * 2 + b"\r\n",
    "Content-Length list": b"GET http://example.com/ HTTP/1.1\r\n" + HOST + b"Content-Length: 1, 1\r\n\r\n",
    "Content-Length signed": b"GET http://example.com/ HTTP/1.1\r\n" + HOST + b"Content-Length: +1\r\n\r\n",
    "Content-Length negative": b"GET http://example.com/ HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n",
    "Content-Length with space": b"GET http://example.com/ HTTP/1.1\r\n" + HOST + b"Content-Length: 1 1\r\n\r\n",
    "Content-Length hex": b"GET http://example.com/ HTTP/1.1\r\n" + HOST + b"Content-Length: 0x1\r\n\r\n",
    "Content-Length empty": b"GET http://example.com/ HTTP/1.1\r\n" + HOST + b"Content-Length: \r\n\r\n",
    "Content-Length superscript": b"GET http://example.com/ HTTP/1.1\r\n" + HOST + b"Content-Length: \xb2\r\n\r\n",
    "Content-Length beyond 63 bits": b"GET http://example.com/ HTTP/1.1\r\n" + HOST + b"Content-Length: "
    + b"9" * 19 + b"\r\n\r\n",
    "TE and CL": b"POST http://example.com/ HTTP/1.1\r\n" + HOST
    + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    "TE twice": b"POST http://example.com/ HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n",
    "TE list": b"POST http://example.com/ HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
    "TE identity": b"POST http://example.com/ HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: identity\r\n\r\n",
    "TE with a control": b"POST http://example.com/ HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: \x0bchunked\r\n\r\n",
    "TE in other case": b"POST http://example.com/ HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: Chunked\r\n\r\n",
    "TE in HTTP/1.0": b"POST http://example.com/ HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n",
    "userinfo": b"GET http://user:pw@example.com/ HTTP/1.1\r\n" + HOST + b"\r\n",
    "userinfo in CONNECT": b"CONNECT user@example.com:443 HTTP/1.1\r\n" + HOST + b"\r\n",
    "fragment": b"GET http://example.com/#x HTTP/1.1\r\n" + HOST + b"\r\n",
    "https in absolute form": b"GET https://example.com/ HTTP/1.1\r\n" + HOST + b"\r\n",
    "ftp in absolute form": b"GET ftp://example.com/ HTTP/1.1\r\n" + HOST + b"\r\n",
    "origin form": b"GET / HTTP/1.1\r\n" + HOST + b"\r\n",
    "asterisk form": b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n",
    "authority form without CONNECT": b"GET example.com:80 HTTP/1.1\r\n" + HOST + b"\r\n",
    "absolute form with CONNECT": b"CONNECT http://example.com/ HTTP/1.1\r\n" + HOST + b"\r\n",
    "empty host": b"GET http:///x HTTP/1.1\r\n" + HOST + b"\r\n",
    "empty host with port": b"GET http://:80/ HTTP/1.1\r\n" + HOST + b"\r\n",
    "empty port": b"GET http://example.com:/ HTTP/1.1\r\n" + HOST + b"\r\n",
    "port with sign": b"GET http://example.com:+80/ HTTP/1.1\r\n" + HOST + b"\r\n",
    "port with leading zero": b"GET http://example.com:080/ HTTP/1.1\r\n" + HOST + b"\r\n",
    "port 0": b"CONNECT example.com:0 HTTP/1.1\r\n" + HOST + b"\r\n",
    "port 65536": b"CONNECT example.com:65536 HTTP/1.1\r\n" + HOST + b"\r\n",
    "CONNECT without port": b"CONNECT example.com HTTP/1.1\r\n" + HOST + b"\r\n",
    "CONNECT with a path": b"CONNECT example.com:443/ HTTP/1.1\r\n" + HOST + b"\r\n",
    "CONNECT with a body": b"CONNECT example.com:443 HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\n\r\n",
    "CONNECT with chunks": b"CONNECT example.com:443 HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n",
    "IPv6 without brackets": b"CONNECT ::1:443 HTTP/1.1\r\nHost: [::1]\r\n\r\n",
    "IPv4 in brackets": b"CONNECT [127.0.0.1]:443 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "IPv6 with a zone": b"CONNECT [fe80::1%25eth0]:443 HTTP/1.1\r\nHost: [fe80::1]\r\n\r\n",
    "unclosed bracket": b"CONNECT [::1:443 HTTP/1.1\r\nHost: [::1]\r\n\r\n",
    "backslash in the authority": b"GET http://example.com\\@evil.example/ HTTP/1.1\r\n" + HOST + b"\r\n",
}  # fmt: skip

MISMATCHED = {
    "other host": b"GET http://example.com/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    "other host in 1.0": b"GET http://example.com/ HTTP/1.0\r\nHost: evil.example\r\n\r\n",
    "other port": b"GET http://example.com/ HTTP/1.1\r\nHost: example.com:81\r\n\r\n",
    "port left out": b"GET http://example.com:81/ HTTP/1.1\r\nHost: example.com\r\n\r\n",
    "other CONNECT host": b"CONNECT example.com:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n",
    "other CONNECT port": b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:80\r\n\r\n",
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
def test_a_malformed_head_is_refused(data: bytes) -> None:
    with pytest.raises(HeadError) as caught:
        parse_head(data)
    assert (caught.value.reason, caught.value.status) == (Reason.MALFORMED_REQUEST, 400)
    assert str(caught.value)


@pytest.mark.parametrize("data", MISMATCHED.values(), ids=MISMATCHED.keys())
def test_a_host_field_that_names_another_host_is_refused(data: bytes) -> None:
    with pytest.raises(HeadError) as caught:
        parse_head(data)
    assert (caught.value.reason, caught.value.status) == (Reason.HOST_HEADER_MISMATCH, 400)
    assert caught.value.request.host == "example.com"


ACCEPTED = {
    "CONNECT": (b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n", "example.com", 443, ""),
    "CONNECT, Host without port": (b"CONNECT example.com:443 HTTP/1.1\r\n" + HOST + b"\r\n", "example.com", 443, ""),
    "CONNECT 1.1 without Host": (b"CONNECT example.com:443 HTTP/1.1\r\n\r\n", "example.com", 443, ""),
    "CONNECT 1.0 without Host": (b"CONNECT example.com:443 HTTP/1.0\r\n\r\n", "example.com", 443, ""),
    "CONNECT, empty body": (b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n\r\n",
                            "a.example", 443, ""),
    "CONNECT to IPv6": (b"CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]:443\r\n\r\n",
                        "2001:db8::1", 443, ""),
    "absolute": (b"GET http://example.com/a?b=c HTTP/1.1\r\n" + HOST + b"\r\n", "example.com", 80, "/a?b=c"),
    "absolute with port": (b"GET http://example.com:8080/ HTTP/1.1\r\nHost: example.com:8080\r\n\r\n",
                           "example.com", 8080, "/"),
    "default port spelled out": (b"GET http://example.com/ HTTP/1.1\r\nHost: example.com:80\r\n\r\n",
                                 "example.com", 80, "/"),
    "no path": (b"GET http://example.com HTTP/1.1\r\n" + HOST + b"\r\n", "example.com", 80, "/"),
    "query without path": (b"GET http://example.com?a HTTP/1.1\r\n" + HOST + b"\r\n", "example.com", 80, "/?a"),
    "OPTIONS for the server": (b"OPTIONS http://example.com HTTP/1.1\r\n" + HOST + b"\r\n", "example.com", 80, "*"),
    "other case in Host": (b"GET http://Example.COM/ HTTP/1.1\r\n" + HOST + b"\r\n", "Example.COM", 80, "/"),
    "trailing dot in Host": (b"GET http://example.com/ HTTP/1.1\r\nHost: example.com.\r\n\r\n", "example.com", 80, "/"),
    "upper-case scheme": (b"GET HTTP://example.com/ HTTP/1.1\r\n" + HOST + b"\r\n", "example.com", 80, "/"),
    "a URL in the query": (b"GET http://example.com/?u=http://a@b/ HTTP/1.1\r\n" + HOST + b"\r\n",
                           "example.com", 80, "/?u=http://a@b/"),
    "HTTP/1.0 without Host": (b"GET http://example.com/ HTTP/1.0\r\n\r\n", "example.com", 80, "/"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "host", "port", "path"), ACCEPTED.values(), ids=ACCEPTED.keys())
def test_a_well_formed_head_is_read(data: bytes, host: str, port: int, path: str) -> None:
    head = parse_head(data)
    assert (head.host, head.port, head.path) == (host, port, path)
    assert head.form is (TargetForm.AUTHORITY if head.method == "CONNECT" else TargetForm.ABSOLUTE)


def test_fields_keep_order_and_duplicates_and_lose_only_outer_whitespace() -> None:
    head = parse_head(b"GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\nX:\t a\t b \r\nx:\xe9\r\nY:\r\n\r\n")
    assert head.fields == (("host", "a.example"), ("x", "a\t b"), ("x", "\xe9"), ("y", ""))


def test_more_fields_than_allowed_are_431() -> None:
    data = b"GET http://example.com/ HTTP/1.1\r\n" + HOST + b"X: y\r\n" * 10 + b"\r\n"
    assert len(parse_head(data, max_fields=11).fields) == 11
    with pytest.raises(HeadError) as caught:
        parse_head(data, max_fields=10)
    assert caught.value.status == 431


@pytest.mark.parametrize(
    ("fields", "length", "chunked"),
    [(b"", None, False), (b"Content-Length: 0\r\n", 0, False), (b"Content-Length: 42\r\n", 42, False),
     (b"Transfer-Encoding: chunked\r\n", None, True)],
)  # fmt: skip
def test_framing(fields: bytes, length: int | None, chunked: bool) -> None:
    head = parse_head(b"POST http://example.com/ HTTP/1.1\r\n" + HOST + fields + b"\r\n")
    assert (head.content_length, head.chunked) == (length, chunked)


@pytest.mark.parametrize(
    ("version", "fields", "kept"),
    [
        (b"1.1", b"", True),
        (b"1.1", b"Connection: close\r\n", False),
        (b"1.1", b"Connection: x, Close\r\n", False),
        (b"1.1", b"Connection: closed\r\n", True),
        (b"1.1", b"Proxy-Connection: close\r\n", True),
        (b"1.0", b"", False),
        (b"1.0", b"Connection: keep-alive\r\n", False),
    ],
)
def test_keep_alive(version: bytes, fields: bytes, kept: bool) -> None:
    head = parse_head(b"GET http://example.com/ HTTP/" + version + b"\r\n" + HOST + fields + b"\r\n")
    assert head.keep_alive is kept


def tunnelled(target: bytes, fields: bytes = HOST, method: bytes = b"GET") -> Head:
    return parse_head(method + b" " + target + b" HTTP/1.1\r\n" + fields + b"\r\n", tunnelled=True)


@pytest.mark.parametrize(
    ("target", "fields", "method", "expected"),
    [
        (b"/a?b", HOST, b"GET", (TargetForm.ORIGIN, "example.com", 443, "/a?b")),
        (b"/", b"Host: example.com:8443\r\n", b"GET", (TargetForm.ORIGIN, "example.com", 8443, "/")),
        (b"*", HOST, b"OPTIONS", (TargetForm.ASTERISK, "example.com", 443, "*")),
        # RFC 9112, section 3.2.2: a server must accept it. lftp, Tcl and PHP with request_fulluri send it.
        (b"https://example.com/a?b", HOST, b"GET", (TargetForm.ABSOLUTE, "example.com", 443, "/a?b")),
        (b"HTTPS://Example.com:443", HOST, b"GET", (TargetForm.ABSOLUTE, "Example.com", 443, "/")),
        (
            b"https://example.com:8443/",
            b"Host: example.com:8443\r\n",
            b"GET",
            (TargetForm.ABSOLUTE, "example.com", 8443, "/"),
        ),
    ],
)
def test_a_tunnelled_head_takes_its_host_from_the_field(
    target: bytes, fields: bytes, method: bytes, expected: tuple[TargetForm, str, int, str]
) -> None:
    head = tunnelled(target, fields, method)
    assert (head.form, head.host, head.port, head.path) == expected


@pytest.mark.parametrize(
    ("target", "fields", "method"),
    [
        (b"http://example.com/", HOST, b"GET"),
        (b"https://evil.example/", HOST, b"GET"),
        (b"https://example.com/", b"Host: evil.example\r\n", b"GET"),
        (b"https://example.com:444/", HOST, b"GET"),
        (b"https://user@example.com/", HOST, b"GET"),
        (b"https://example.com/", b"", b"GET"),
        (b"https://example.com/", HOST, b"CONNECT"),
        (b"https://example.com/#x", HOST, b"GET"),
        (b"https:///", HOST, b"GET"),
        (b"example.com:443", HOST, b"CONNECT"),
        (b"*", HOST, b"GET"),
        (b"/#x", HOST, b"GET"),
        (b"/", b"", b"GET"),
        (b"/", HOST * 2, b"GET"),
        (b"/", b"Host:\r\n", b"GET"),
    ],
)
def test_a_tunnelled_head_in_another_form_is_refused(target: bytes, fields: bytes, method: bytes) -> None:
    with pytest.raises(HeadError):
        tunnelled(target, fields, method)


@pytest.mark.parametrize(("target", "passes"), [(b"http://example.com/a", True), (b"http://evil.example/a", False)])
def test_absolute_form_where_a_name_was_dialled_names_the_same(target: bytes, passes: bool) -> None:
    data = b"GET " + target + b" HTTP/1.1\r\n" + HOST + b"\r\n"
    if passes:
        assert parse_head(data, dialled=("example.com", 80)).path == "/a"
    else:
        with pytest.raises(HeadError) as caught:
            parse_head(data, dialled=("example.com", 80))
        assert caught.value.reason is Reason.HOST_HEADER_MISMATCH


def at_8081(host: str, port: int) -> bool:
    return (host, port) == ("127.0.0.1", 8081)


@pytest.mark.parametrize(
    ("line", "host", "passes"),
    [
        (b"CONNECT example.com:443", b"127.0.0.1:8081", True),  # ffmpeg, brz
        (b"GET http://example.com/", b"127.0.0.1:8081", True),  # niquests
        (b"CONNECT example.com:443", b"127.0.0.1:8082", False),
        (b"CONNECT example.com:443", b"127.0.0.1", False),
        (b"CONNECT example.com:443", b"evil.example:8081", False),
        (b"GET http://example.com/", b"evil.example", False),
    ],
)
def test_a_host_field_that_names_the_proxy_asks_for_nothing_else(line: bytes, host: bytes, passes: bool) -> None:
    data = line + b" HTTP/1.1\r\nHost: " + host + b"\r\n\r\n"
    if passes:
        assert parse_head(data, names_us=at_8081).host == "example.com"
    else:
        with pytest.raises(HeadError) as caught:
            parse_head(data, names_us=at_8081)
        assert caught.value.reason is Reason.HOST_HEADER_MISMATCH


@pytest.mark.parametrize(
    ("data", "seen"),
    [
        (b"GET https://a.example/x HTTP/1.1\r\nHost: a.example\r\nX: y\r\n\r\n", ("a.example", 443, "GET", "/x")),
        (b"GET /x HTTP/1.1\r\nHost: a.example\r\nX: y\r\n\r\n", ("a.example", 443, "GET", "/x")),
        (b"GET http://a.example/x HTTP/1.1\r\nX: y\r\nHost : b\r\n\r\n", ("a.example", 80, "GET", "/x")),
        (b"CONNECT a.example:443 HTTP/1.1\r\nX: y\r\nContent-Length: 3\r\n\r\n", ("a.example", 443, None, None)),
        (b"GET ftp://a.example/x HTTP/1.1\r\nX: y\r\nHost: a.example\r\n\r\n", ("", 0, None, None)),
    ],
)
def test_a_refused_head_tells_what_could_be_read_of_it(
    data: bytes, seen: tuple[str, int, str | None, str | None]
) -> None:
    with pytest.raises(HeadError) as caught:
        parse_head(data)
    request = caught.value.request
    assert (request.host, request.port, request.method, request.path) == seen
    assert ("x", "y") in caught.value.fields


@given(st.binary(max_size=200), st.booleans())
def test_no_bytes_raise_anything_but_a_head_error(data: bytes, inside: bool) -> None:
    for case in (data, b"GET http://a.example/ HTTP/1.1\r\n" + data + b"\r\n\r\n", b"GET " + data + b"\r\n\r\n"):
        try:
            head = parse_head(case, tunnelled=inside)
        except HeadError:
            continue
        assert head.host
        assert 0 < head.port < 65536
        assert all("\r" not in v and "\n" not in v and "\0" not in v for _, v in head.fields)
