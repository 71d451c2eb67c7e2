from __future__ import annotations

import struct
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloned_proxy.proxy.wire.client_hello import MAX_HELLO_BYTES, ClientHelloReader, ServerNames, Unread
from tests.proxy.support import hello


def vector(width: int, content: bytes) -> bytes:
    return len(content).to_bytes(width) + content


def names_extension(*names: bytes, name_type: int = 0) -> bytes:
    entries = b"".join(bytes((name_type,)) + vector(2, name) for name in names)
    return b"\0\0" + vector(2, vector(2, entries))


def message(
    extensions: bytes | None = b"", *, kind: int = 1, session: bytes = b"", suites: bytes = b"\x13\x01"
) -> bytes:
    body = b"\x03\x03" + bytes(32) + vector(1, session) + vector(2, suites) + vector(1, b"\0")
    if extensions is not None:
        body += vector(2, extensions)
    return bytes((kind,)) + vector(3, body)


def records(payload: bytes, size: int = 16_000) -> bytes:
    parts = (payload[i : i + size] for i in range(0, len(payload), size))
    return b"".join(b"\x16\x03\x01" + vector(2, part) for part in parts)


ECH = b"\xfe\x0d" + vector(2, b"\0" * 40)
GOOD = names_extension(b"api.example.com")

CASES: dict[str, tuple[bytes, ServerNames | Unread]] = {
    "one name": (records(message(GOOD)), ("api.example.com",)),
    "the name as sent": (records(message(names_extension(b"API.Example.com."))), ("API.Example.com.",)),
    "no extensions at all": (records(message(None)), ()),
    "no server_name extension": (records(message(ECH)), ()),
    "ECH shows its outer name": (records(message(ECH + GOOD)), ("api.example.com",)),
    "two names in one extension": (records(message(names_extension(b"a.example", b"b.example"))),
                                   ("a.example", "b.example")),
    "two extensions": (records(message(GOOD + names_extension(b"b.example"))), ("api.example.com", "b.example")),
    "in one-byte records": (records(message(GOOD), 1), ("api.example.com",)),
    "bytes behind the hello": (records(message(GOOD)) + b"\x17\x03\x03\x00\x01x", ("api.example.com",)),
    "SSL 3.0 record version": (b"\x16\x03\x00" + records(message(GOOD))[3:], ("api.example.com",)),
    "nothing": (b"", Unread.NEED_MORE),
    "half a hello": (records(message(GOOD))[:40], Unread.NEED_MORE),
    "half a header": (b"\x16\x03", Unread.NEED_MORE),
    "SSH": (b"SSH-2.0-OpenSSH\r\n", Unread.NOT_TLS),
    "HTTP": (b"GET / HTTP/1.1\r\n\r\n", Unread.NOT_TLS),
    "SSLv2 hello": (b"\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10" + bytes(37), Unread.NOT_TLS),
    "application data": (b"\x17" + records(message(GOOD))[1:], Unread.NOT_TLS),
    "record version 4": (b"\x16\x04" + records(message(GOOD))[2:], Unread.NOT_TLS),
    "record version 3.5": (b"\x16\x03\x05" + records(message(GOOD))[3:], Unread.NOT_TLS),
    "server hello": (records(message(GOOD, kind=2)), Unread.NOT_TLS),
    "an empty record": (b"\x16\x03\x01\0\0" + records(message(GOOD)), Unread.NOT_TLS),
    "another record in between": (records(message(GOOD), 50)[:55] + b"\x14\x03\x03\0\x01\x01", Unread.NOT_TLS),
    "a second message in the record": (records(message(GOOD) + message(GOOD)), Unread.NOT_TLS),
    "extensions behind the message's end": (records(message(None) + vector(2, GOOD)), Unread.NOT_TLS),
    "extension over the end": (records(message(GOOD + b"\0\x05\xff\xff")), Unread.NOT_TLS),
    "list over its extension": (records(message(b"\0\0" + vector(2, b"\0\xff\0\0\1a"))), Unread.NOT_TLS),
    "empty list": (records(message(b"\0\0" + vector(2, b"\0\0"))), Unread.NOT_TLS),
    "empty extension": (records(message(b"\0\0\0\0")), Unread.NOT_TLS),
    "empty name": (records(message(names_extension(b""))), Unread.NOT_TLS),
    "non-ASCII name": (records(message(names_extension(b"\xc3\xa9.example"))), Unread.NOT_TLS),
    "other name type": (records(message(names_extension(b"a.example", name_type=1))), Unread.NOT_TLS),
    "bytes behind the extensions": (records(b"\x01" + vector(3, message(GOOD)[4:] + b"x")), Unread.NOT_TLS),
    "session id over 32 bytes": (records(message(GOOD, session=bytes(33))), Unread.NOT_TLS),
    "odd cipher suites": (records(message(GOOD, suites=b"\x13\x01\x00")), Unread.NOT_TLS),
    "no cipher suites": (records(message(GOOD, suites=b"")), Unread.NOT_TLS),
    "body cut short": (records(b"\x01" + vector(3, b"\x03\x03" + bytes(10))), Unread.NOT_TLS),
    "a hello over the cap": (records(message(b"\x12\x34" + vector(2, bytes(MAX_HELLO_BYTES)))), Unread.NOT_TLS),
    "announced over the cap": (b"\x16\x03\x01\x00\x04\x01\xff\xff\xff", Unread.NOT_TLS),
    "records over the cap": (records(message(b"\x12\x34" + vector(2, bytes(3000))), 1), Unread.NOT_TLS),
    "a record over the cap": (b"\x16\x03\x01" + struct.pack(">H", 16_380), Unread.NOT_TLS),
}  # fmt: skip


def outcome(data: bytes, cuts: list[int] | None = None) -> ServerNames | Unread:
    reader = ClientHelloReader()
    edges = [0, *(cuts if cuts is not None else []), len(data)]
    result: ServerNames | Unread = Unread.NEED_MORE
    for start, end in pairwise(edges):
        result = reader.feed(data[start:end])
    return result


@pytest.mark.parametrize(("data", "expected"), CASES.values(), ids=CASES.keys())
def test_the_outcome_is_the_same_whole_and_byte_by_byte(data: bytes, expected: ServerNames | Unread) -> None:
    assert outcome(data) == expected
    assert outcome(data, list(range(1, len(data)))) == expected


@pytest.mark.parametrize("name", ["api.example.com", None])
def test_the_hello_of_a_real_client_is_read(name: str | None) -> None:
    assert outcome(hello(name)) == ((name,) if name else ())


@given(st.data(), st.sampled_from(sorted(CASES)))
def test_no_segmentation_changes_the_outcome(data: st.DataObject, case: str) -> None:
    content, expected = CASES[case]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=12)))
    assert outcome(content, cuts) == expected


@settings(max_examples=300)
@given(st.binary(max_size=300), st.integers(0, 120), st.integers(0, 255))
def test_damaged_hellos_never_raise(tail: bytes, at: int, value: int) -> None:
    good = bytearray(records(message(GOOD)))
    good[at % len(good)] = value
    for case in (bytes(good), bytes(good[:at]) + tail, tail, b"\x16\x03\x01" + tail):
        result = outcome(case)
        assert outcome(case, list(range(1, len(case)))) == result
