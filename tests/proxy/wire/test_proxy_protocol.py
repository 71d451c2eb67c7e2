"""The form of the header, by `doc/proxy-protocol.txt` of HAProxy."""

from __future__ import annotations

import socket
import struct

import pytest

from cloned_proxy.proxy.wire.proxy_protocol import MAX_BYTES, HeaderError, header_length

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
IPV4 = socket.inet_aton("192.0.2.1") + socket.inet_aton("192.0.2.2") + struct.pack("!HH", 5000, 8081)
IPV6 = (
    socket.inet_pton(socket.AF_INET6, "2001:db8::1")
    + socket.inet_pton(socket.AF_INET6, "2001:db8::2")
    + struct.pack("!HH", 5000, 8081)
)
UNIX = bytes(216)
ALPN = b"\x01\x00\x02h2"
EMPTY = b"\x04\x00\x00"


def second(family: int, block: bytes, *, command: int = 0x21, length: int | None = None) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(block) if length is None else length) + block


WHOLE = {
    "v1 IPv4": b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 8081\r\n",
    "v1 IPv6": b"PROXY TCP6 2001:db8::1 2001:db8::2 5000 8081\r\n",
    "v1 longest IPv6": b"PROXY TCP6 "
    + b" ".join([b"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"] * 2)
    + b" 65535 65535\r\n",
    "v1 UNKNOWN": b"PROXY UNKNOWN\r\n",
    "v1 UNKNOWN with what is to be ignored": b"PROXY UNKNOWN ffff::1 nonsense 1\r\n",
    "v2 IPv4": second(0x11, IPV4),
    "v2 IPv6": second(0x21, IPV6),
    "v2 unix": second(0x31, UNIX),
    "v2 with TLVs": second(0x11, IPV4 + ALPN + EMPTY),
    "v2 LOCAL": second(0x00, b"", command=0x20),
    "v2 LOCAL with what is to be ignored": second(0x11, b"\xff" * 7, command=0x20),
    "v2 UNSPEC": second(0x00, b""),
    "v2 UNSPEC with what is to be ignored": second(0x00, b"\xff" * 7),
    "v2 of the most bytes": second(0x00, bytes(MAX_BYTES - 16)),
}
WRONG = {
    "v1 without a space": b"PROXYTCP4 192.0.2.1 192.0.2.2 5000 8081\r\n",
    "v1 in lower case": b"proxy TCP4 192.0.2.1 192.0.2.2 5000 8081\r\n",
    "v1 two spaces": b"PROXY TCP4  192.0.2.1 192.0.2.2 5000 8081\r\n",
    "v1 a name": b"PROXY TCP4 localhost 192.0.2.2 5000 8081\r\n",
    "v1 the other family": b"PROXY TCP4 ::1 ::1 5000 8081\r\n",
    "v1 IPv4 as IPv6": b"PROXY TCP6 192.0.2.1 192.0.2.2 5000 8081\r\n",
    "v1 leading zero of an address": b"PROXY TCP4 192.0.2.01 192.0.2.2 5000 8081\r\n",
    "v1 leading zero of a port": b"PROXY TCP4 192.0.2.1 192.0.2.2 05000 8081\r\n",
    "v1 port 65536": b"PROXY TCP4 192.0.2.1 192.0.2.2 65536 8081\r\n",
    "v1 more words": b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 8081 more\r\n",
    "v1 too few words": b"PROXY TCP4 192.0.2.1 192.0.2.2 5000\r\n",
    "v1 UDP": b"PROXY UDP4 192.0.2.1 192.0.2.2 5000 8081\r\n",
    "v1 UNKNOWN and a letter": b"PROXY UNKNOWNX\r\n",
    "v1 a bare line feed": b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 8081\n" + b"x" * 80,
    "v1 of 108 bytes": b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n",
    "v2 another version": second(0x11, IPV4, command=0x11),
    "v2 another command": second(0x11, IPV4, command=0x22),
    "v2 datagrams": second(0x12, IPV4),
    "v2 another family": second(0x41, IPV4),
    "v2 IPv4, a byte too short": second(0x11, IPV4[:-1]),
    "v2 IPv6 with the length of IPv4": second(0x21, IPV4),
    "v2 unix, a byte too short": second(0x31, UNIX[:-1]),
    "v2 a TLV that is cut": second(0x11, IPV4 + ALPN[:-1]),
    "v2 a TLV without its length": second(0x11, IPV4 + b"\x01\x00"),
    "v2 of more than the most bytes": second(0x00, bytes(MAX_BYTES - 15)),
    "HTTP": b"CONNECT a.example:443 HTTP/1.1\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01",
    "another signature": b"\r\n\r\n\x00\r\nQUIX\n",
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_header_ends_where_it_ends_whatever_follows_and_however_it_comes(name: str) -> None:
    header = WHOLE[name]
    for end in range(1, len(header)):
        assert header_length(header[:end]) is None
    assert header_length(header) == header_length(header + header) == header_length(header + b"CONNECT") == len(header)


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_header_is_refused(name: str) -> None:
    data = WRONG[name]
    with pytest.raises(HeaderError):
        header_length(data)
    # On the way there it is refused, or not yet known: at no length is it a header.
    assert not any(_is_header(data[:end]) for end in range(1, len(data)))


def _is_header(data: bytes) -> bool:
    try:
        return header_length(data) is not None
    except HeaderError:
        return False
