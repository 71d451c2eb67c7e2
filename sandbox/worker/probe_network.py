"""Ways to ask the network, and what an answer or an error says about a way out: `probe.py` tries them.

An outcome is `open`, `blocked` or `unavailable`, as there.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
import struct
from typing import Any

WAIT = 2.0
NOWHERE = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.ENETDOWN, errno.ENODEV}
FORBIDDEN = {errno.EPERM, errno.EACCES}
MISSING = {errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.ENOSYS, errno.ESOCKTNOSUPPORT}
TLS_ALERT = 21
A = 1
HEADER = 12
"""Bytes of a DNS message before its question (RFC 1035, section 4.1.1)."""
UNRESOLVED = "host_not_allowed"
"""Decided by the name alone; every later reason takes the name's addresses."""

type Seen = tuple[str, str]


def judge(error: OSError, *, loopback: bool = False) -> Seen:
    """What an error says about the way out."""
    code = error.errno
    name = errno.errorcode.get(code or 0, type(error).__name__)
    if code in MISSING:
        return "unavailable", name
    if code in NOWHERE | FORBIDDEN or (loopback and code == errno.ECONNREFUSED):
        return "blocked", name
    return "open", f"{name}: something was asked"


def tcp(host: str, port: int) -> Seen:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(WAIT)
        try:
            sock.connect((host, port))
        except OSError as error:
            return judge(error, loopback=host == "::1" or host.startswith("127."))
        return "open", f"connected to {host}:{port}"


def udp(host: str, port: int, *, broadcast: bool = False, closed: bool = False) -> Seen:
    """`closed`: the address is one of the slot's own, so that a refusal there is nobody's answer from outside."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(WAIT)
        if broadcast:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        try:
            sock.connect((host, port))
            sock.send(b"probe")
            sock.recv(100)
        except OSError as error:
            return judge(error, loopback=closed or host.startswith("127."))
        return "open", f"{host}:{port} answered"


def resolve(name: str) -> Seen:
    """A name that must not lead out. In a slot any name may have an address: that of the proxy, which refuses there."""
    try:
        found = socket.getaddrinfo(name, 443)
    except OSError as error:
        return "blocked", str(error)
    return leads(name, found[0][4][0])


def leads(name: str, address: str) -> Seen:
    """Where the address of a denied name leads to: the proxy has to refuse it for its name alone, on every way."""
    refusal = {"head": f"GET / HTTP/1.1\nHost: {name}", "reasons": [UNRESOLVED]}
    for way in (
        lambda: at_address(address, 80, **refusal),
        lambda: at_address(address, 443, server_name=name),
        lambda: at_address(address, 22),
        lambda: udp(address, 443, closed=True),
    ):
        outcome, detail = way()
        if outcome == "open":
            return outcome, f"{name} is {address}: {detail}"
    return "blocked", f"{name} is {address}, where the proxy refuses it"


def by_name(name: str, port: int, **sent: Any) -> Seen:
    """Dials an address that the slot's own name server gave out, and says there something that must not pass."""
    try:
        found = socket.getaddrinfo(name, port, socket.AF_INET, socket.SOCK_STREAM)
    except OSError as error:
        return "blocked", str(error)
    return at_address(found[0][4][0], port, **sent)


def at_address(
    address: str, port: int, *, head: str = "", server_name: str = "", reasons: list[str] | None = None
) -> Seen:
    """Blocked are a refused or closed connection, an alert, and a refusal for one of `reasons`."""
    try:
        with socket.create_connection((address, port), timeout=WAIT * 2) as sock:
            if head:
                sock.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n")
            elif server_name:
                sock.sendall(client_hello(server_name))
            said = sock.recv(4096)
    except ConnectionError as error:
        return "blocked", type(error).__name__
    except OSError as error:
        return judge(error, loopback=address.startswith("127."))
    if not said or said[0] == TLS_ALERT:
        return "blocked", "an alert" if said else "closed"
    answer = said.decode("latin-1")
    reason = reason_of(answer)
    return ("blocked" if reason in (reasons or []) else "open"), f"{answer.split(chr(13))[0]} {reason}".strip()


def dns(name: str, kind: int, *, stream: bool = False) -> Seen:
    """Asks 127.0.0.1:53 itself. An address in the answer must lead nowhere; no other data may be in it."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    question = struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", kind, 1)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM if stream else socket.SOCK_DGRAM) as sock:
            sock.settimeout(WAIT)
            sock.connect(("127.0.0.1", 53))
            sock.sendall(struct.pack("!H", len(question)) + question if stream else question)
            answer = sock.recv(4096)[2 if stream else 0 :]
    except OSError as error:
        return judge(error, loopback=True)
    if len(answer) < len(question):
        return "blocked", f"code {answer[3] & 15}" if len(answer) >= HEADER else "closed"
    code, answers = answer[3] & 15, struct.unpack("!H", answer[6:8])[0]
    if not answers:
        return "blocked", f"code {code}, no data"
    if kind != A or answers > 1:
        return "open", f"{answers} records of type {kind}"
    return leads(name, socket.inet_ntoa(answer[-4:]))


def reason_of(answer: str) -> str:
    return next((line.split(": ")[1] for line in answer.split("\r\n") if line.startswith("X-Cloned-Proxy-Reason")), "")


def client_hello(server_name: str | None) -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # no roots to load: nothing is ever verified here
    context.check_hostname = server_name is not None
    tls = context.wrap_bio(incoming, outgoing, server_hostname=server_name)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()
