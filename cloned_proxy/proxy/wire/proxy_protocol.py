"""The PROXY protocol header with which a load balancer begins a connection, in both versions.

After `doc/proxy-protocol.txt` of HAProxy, sections 2.1 and 2.2. The header is checked and taken off. Whose address it
names goes on record and is used for nothing else: identity is a credential or a listener of one's own, never where
somebody comes from.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

MAX_BYTES: Final = 4096
"""The longest header with its TLVs, in bytes. The format asks for 536; a client's certificate may come along."""

_SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_FIXED: Final = 16
_V1: Final = b"PROXY "
_V1_MAX: Final = 107
"""Bytes of the longest line there is, with its end."""
_LOCAL, _PROXY = 0x20, 0x21
"""Version 2 and the command. LOCAL is the load balancer speaking for itself, as in a health check."""
_ADDRESS_BYTES: Final = {0x00: 0, 0x11: 12, 0x21: 36, 0x31: 216}
"""Bytes of the addresses, by family and transport: unspecified, and streams over IPv4, IPv6 and unix sockets."""
_UNSPECIFIED: Final = 0x00
_SOURCE_BYTES: Final = {0x11: 4, 0x21: 16}
_TLV_HEAD: Final = 3
_PORT: Final = rb"(0|[1-9][0-9]{0,4})"
_LINE: Final = re.compile(rb"PROXY TCP([46]) ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+) %b %b\r\n" % (_PORT, _PORT))
_MAX_PORT: Final = 65_535


class HeaderError(Exception):
    """Bytes that are no PROXY protocol header, or none that may stand before a stream; the message says why."""


def header_length(data: bytes) -> int | None:
    """Bytes of the header with which `data` begins; None while more is to come. Raises HeaderError.

    While the answer is None, all of `data` belongs to the header.
    """
    if _begins(data, _SIGNATURE):
        return _second(data)
    if _begins(data, _V1):
        return _first(data)
    raise HeaderError("no PROXY protocol header")


def source_of(header: bytes) -> str:
    """The address of the client that a whole header names; "" where it names none, or a unix socket."""
    if header.startswith(_V1):
        words = header.split(b" ")
        return "" if words[1].startswith(b"UNKNOWN") else str(ipaddress.ip_address(words[2].decode("ascii")))
    size = _SOURCE_BYTES.get(header[13], 0) if header[12] == _PROXY else 0
    return str(ipaddress.ip_address(header[_FIXED : _FIXED + size])) if size else ""


def _begins(data: bytes, mark: bytes) -> bool:
    return data[: len(mark)] == mark[: len(data)]


def _first(data: bytes) -> int | None:
    end = data.find(b"\r\n", 0, _V1_MAX)
    if end < 0:
        if len(data) >= _V1_MAX:
            raise HeaderError(f"a line of more than {_V1_MAX} bytes")
        return None
    line = data[: end + 2]
    if line.startswith((b"PROXY UNKNOWN\r", b"PROXY UNKNOWN ")):
        return len(line)
    match = _LINE.fullmatch(line)
    if match is None:
        raise HeaderError("a line that is not of version 1")
    family, source, destination, *ports = match.groups()
    kind = ipaddress.IPv4Address if family == b"4" else ipaddress.IPv6Address
    try:
        kind(source.decode("ascii")), kind(destination.decode("ascii"))
    except ValueError as error:
        raise HeaderError("an address that is not of its family") from error
    if any(int(port) > _MAX_PORT for port in ports):
        raise HeaderError("a port above 65535")
    return len(line)


def _second(data: bytes) -> int | None:
    if len(data) < _FIXED:
        return None
    command, family = data[12], data[13]
    length = _FIXED + int.from_bytes(data[14:_FIXED])
    if command not in {_LOCAL, _PROXY}:
        raise HeaderError(f"version and command {command:#04x}")
    if length > MAX_BYTES:
        raise HeaderError(f"a header of more than {MAX_BYTES} bytes")
    # What LOCAL and the unspecified family carry is to be skipped unread.
    if command == _PROXY and family not in _ADDRESS_BYTES:
        raise HeaderError(f"family and transport {family:#04x}")
    opaque = command == _LOCAL or family == _UNSPECIFIED
    if not opaque and length < _FIXED + _ADDRESS_BYTES[family]:
        raise HeaderError("a length too short for its addresses")
    if len(data) < length:
        return None
    if not opaque:
        _check_tlvs(data[_FIXED + _ADDRESS_BYTES[family] : length])
    return length


def _check_tlvs(rest: bytes) -> None:
    at = 0
    while at < len(rest):
        end = at + _TLV_HEAD + int.from_bytes(rest[at + 1 : at + _TLV_HEAD])
        if at + _TLV_HEAD > len(rest) or end > len(rest):
            raise HeaderError("a TLV that ends behind the header")
        at = end
