"""The bytes that the clients and the upstream of the benchmark agree on."""

from __future__ import annotations

import os
import ssl
from typing import Final

HOST: Final = os.environ.get("BENCH_HOST", "localhost")
"""The allowed name: every contender resolves it from the hosts file, and it resolves to loopback only."""
DENIED: Final = "denied.example"
"""In no rule list and never resolved: reserved by RFC 2606."""

MARK: Final = b"bench: hello, 24 octets!"
_MARK_AND_SIZE: Final = len(MARK) + 8
_RANDOM_AT: Final = 11  # record header, handshake header, version (RFC 8446, sections 4 and 5.1)

BODY: Final = b"x" * 1024
RESPONSE: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY


def real_hello(name: str = HOST) -> bytes:
    """The ClientHello that OpenSSL sends for `name`."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = trusting_context().wrap_bio(incoming, outgoing, server_hostname=name)
    try:
        session.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise RuntimeError("a handshake ended without a peer")


def trusting_context() -> ssl.SSLContext:
    """A client that accepts any certificate: the upstream's is made on the spot, and one contender replaces it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def marked_hello(hello: bytes, size: int) -> bytes:
    """The hello with our mark as its random: it asks the upstream for its first flight and `size` bytes more."""
    mark = MARK + size.to_bytes(8)
    return hello[:_RANDOM_AT] + mark + hello[_RANDOM_AT + len(mark) :]


def marked_bytes(size: int) -> bytes:
    """The same request without TLS, for a contender that would open it."""
    return b"\x00" * _RANDOM_AT + MARK + size.to_bytes(8)


def asked_size(data: bytes) -> int | None:
    """How many bytes a marked beginning asks for; None when it carries no mark."""
    mark = data[_RANDOM_AT : _RANDOM_AT + _MARK_AND_SIZE]
    return int.from_bytes(mark[len(MARK) :]) if mark.startswith(MARK) else None


def is_whole(data: bytes) -> bool:
    """Whether `data` holds a whole TLS record, or our mark without one."""
    if data[:1] != b"\x16":
        return len(data) >= _RANDOM_AT + _MARK_AND_SIZE
    return len(data) >= 5 and len(data) >= 5 + int.from_bytes(data[3:5])
