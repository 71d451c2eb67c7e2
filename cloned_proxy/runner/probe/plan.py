"""What the probe tries, in groups, and what must come of it. Pure: addresses and ports come from outside."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from cloned_proxy.policy.terms.host_port import in_brackets
from cloned_proxy.policy.terms.vocabulary import OWN_HOST

PROBE_TOOL: Final = "cloned.internal.probe@v1"
OTHER_TOOL: Final = "cloned.internal.probe-other@v1"
# RFC 5737 and RFC 3849: nobody owns these, so that even a leak would disturb nobody.
_NET_2: Final = "198.51.100.7"
_NET_3: Final = "203.0.113.9"
_V6: Final = "2001:db8::7"
DENIED_NAME: Final = "denied.example"
_REFUSED: Final = (400, 403, 407)
_UNRESOLVED: Final = "host_not_allowed"
"""Decided by the name alone; every later reason takes its addresses."""
_VSOCK: Final = 40
_BLUETOOTH: Final = 31
_ALG: Final = 38
_NETLINK_AUDIT: Final = 9
_A, _TXT, _AXFR = 1, 16, 252
_MISMATCHES: Final = ["malformed_request", "host_header_mismatch"]


@dataclass(frozen=True, slots=True)
class Attempt:
    id: str
    group: str
    what: str
    kind: str
    arguments: dict[str, Any] = field(default_factory=dict)
    expected: str = "blocked"
    control: bool = False
    """Must be seen to succeed in the open container, or the probe is blind there."""


@dataclass(frozen=True, slots=True)
class Targets:
    """What the host side set up to be reached, or not."""

    host_addresses: tuple[str, ...]
    """The addresses of every interface but loopback."""
    tcp: int
    """A canary on all addresses of the host; nothing may ever arrive there."""
    udp: int
    abstract: str
    """Name of a unix socket without a path, in the host's namespace."""
    tls: int
    """A canary on loopback that the policy allows by the name `localhost`."""
    raw: int
    """The same for any bytes; the one way that must be open."""
    forged: str
    """A genuine credential of another tool, as `user:token` in base64."""
    forged_token: str
    engine_socket: str = "/mnt/engine/canary.sock"


def plan(t: Targets) -> list[Attempt]:
    """Every attempt. The ids are stable: people compare reports."""
    return [
        *_direct(),
        *_names(),
        *_dialled(t),
        *_datagrams(),
        *_v6(),
        *_host(t),
        *_metadata(),
        *_engine(t),
        *_kernel(),
        *_workspace(),
        *_proxy(t),
    ]


def _direct() -> Iterator[Attempt]:
    for number, (host, port) in enumerate(((_NET_2, 443), (_NET_3, 80), ("10.255.255.1", 443), ("192.168.255.1", 22))):
        yield Attempt(f"direct-{number + 1}", "direct IP", f"TCP to {host}:{port}", "tcp", {"host": host, "port": port})


def _names() -> Iterator[Attempt]:
    yield Attempt("dns-1", "DNS", f"the C library resolves {DENIED_NAME}", "resolve", {"name": DENIED_NAME})
    yield Attempt("dns-2", "DNS", "the engine's resolver, 127.0.0.11", "tcp", {"host": "127.0.0.11", "port": 53})
    asked = {"name": DENIED_NAME, "kind": _A}
    yield Attempt("dns-3", "DNS", "the configured server by UDP", "dns", asked)
    yield Attempt("dns-4", "DNS", "the configured server by TCP", "dns", {**asked, "stream": True})
    yield Attempt("dns-5", "DNS", f"a server outside, {_NET_2}", "udp", {"host": _NET_2, "port": 53})
    carried = {"name": f"{'6c656b' * 10}.{'6c656b' * 10}.{DENIED_NAME}", "kind": _TXT}
    yield Attempt("dns-6", "DNS", "a question that carries data out (TXT)", "dns", carried)
    yield Attempt("dns-7", "DNS", "all names (AXFR)", "dns", {"name": DENIED_NAME, "kind": _AXFR, "stream": True})


def _dialled(t: Targets) -> Iterator[Attempt]:
    """Ways out through the place where dialled names arrive. Where names have no address, there are none."""
    group = "names"

    def dialled(number: int, what: str, name: str, port: int, **sent: Any) -> Attempt:
        return Attempt(f"names-{number}", group, what, "by_name", {"name": name, "port": port, **sent})

    other = f"GET / HTTP/1.1\nHost: localhost:{t.raw}"
    yield dialled(1, "another name in Host", OWN_HOST, 80, head=other, reasons=_MISMATCHES)
    absolute = f"GET http://localhost:{t.raw}/ HTTP/1.1\nHost: localhost:{t.raw}"
    yield dialled(2, "another name in the request line", OWN_HOST, 80, head=absolute, reasons=_MISMATCHES)
    connect = _connect("localhost", t.raw)
    yield dialled(3, "CONNECT where no proxy is", OWN_HOST, 80, head=connect, reasons=_MISMATCHES)
    yield dialled(4, "an allowed name in the TLS of a denied one", DENIED_NAME, 443, server_name="localhost")
    yield dialled(5, "TLS to a name that only the proxy has", OWN_HOST, 443, server_name=OWN_HOST)
    yield dialled(6, "a denied name at a port where this host listens", DENIED_NAME, t.tcp)
    yield dialled(
        7,
        "metadata.google.internal",
        "metadata.google.internal",
        80,
        head="GET /latest/ HTTP/1.1\nHost: metadata.google.internal",
        reasons=[_UNRESOLVED],
    )


def _datagrams() -> Iterator[Attempt]:
    group = "UDP, ICMP, raw"
    yield Attempt("udp-1", group, f"UDP to {_NET_2}:443 (QUIC)", "udp", {"host": _NET_2, "port": 443})
    broadcast = {"host": "255.255.255.255", "port": 67, "broadcast": True}
    yield Attempt("udp-2", group, "UDP broadcast", "udp", broadcast)
    yield Attempt("udp-3", group, "UDP multicast", "udp", {"host": "239.255.1.1", "port": 5353})
    yield Attempt("icmp-1", group, f"ping to {_NET_2}", "icmp", {"host": _NET_2, "kind": int(socket.SOCK_DGRAM)})
    raw = {"host": "", "kind": int(socket.SOCK_RAW)}
    yield Attempt("icmp-2", group, "a raw ICMP socket", "icmp", raw, control=True)
    packet = {"family": 17, "kind": int(socket.SOCK_RAW), "protocol": 0x0300}
    yield Attempt("raw-1", group, "a packet socket", "socket", packet, control=True)


def _v6() -> Iterator[Attempt]:
    yield Attempt("ipv6-1", "IPv6", f"TCP to {_V6}", "tcp", {"host": _V6, "port": 443})
    yield Attempt("ipv6-2", "IPv6", f"UDP to {_V6}", "udp", {"host": _V6, "port": 443})
    yield Attempt("ipv6-3", "IPv6", "UDP to a multicast group", "udp", {"host": "ff05::1", "port": 5353})
    yield Attempt("ipv6-4", "IPv6", "IPv4 in IPv6", "tcp", {"host": f"::ffff:{_NET_2}", "port": 443})


def _host(t: Targets) -> Iterator[Attempt]:
    for number, host in enumerate(t.host_addresses):
        arguments = {"host": host, "port": t.tcp}
        yield Attempt(f"host-{number + 1}", "host", f"a service on {host}", "tcp", arguments, control=True)
    yield Attempt("host-gateway", "host", "the usual gateway", "tcp", {"host": "172.17.0.1", "port": t.tcp})
    yield Attempt("host-name", "host", "host.docker.internal", "resolve", {"name": "host.docker.internal"})
    loopback = {"host": "127.0.0.1", "port": t.tcp}
    yield Attempt("loopback-1", "host loopback", "a service on 127.0.0.1 (TCP)", "tcp", loopback, control=True)
    datagram = {"host": "127.0.0.1", "port": t.udp}
    yield Attempt("loopback-2", "host loopback", "a service on 127.0.0.1 (UDP)", "udp", datagram, control=True)
    yield Attempt("loopback-3", "host loopback", "a service on ::1", "tcp", {"host": "::1", "port": t.tcp})
    abstract = {"path": f"@{t.abstract}"}
    yield Attempt("loopback-4", "host loopback", "an abstract unix socket", "unix", abstract, control=True)


def _metadata() -> Iterator[Attempt]:
    group = "metadata"
    yield Attempt("metadata-1", group, "169.254.169.254 direct", "tcp", {"host": "169.254.169.254", "port": 80})
    yield Attempt("metadata-2", group, "fd00:ec2::254 direct", "tcp", {"host": "fd00:ec2::254", "port": 80})
    for number, host in enumerate(("169.254.169.254", "metadata.google.internal")):
        head = f"GET http://{host}/latest/ HTTP/1.1\nHost: {host}"
        reason = "ip_literal" if host[0].isdigit() else _UNRESOLVED
        yield _asked(f"metadata-{number + 3}", group, f"{host} through the proxy", head, reason=reason)


def _engine(t: Targets) -> Iterator[Attempt]:
    group = "engine"
    for number, path in enumerate(
        ("/var/run/docker.sock", "/run/podman/podman.sock", "/run/containerd/containerd.sock")
    ):
        yield Attempt(f"engine-{number + 1}", group, path, "unix", {"path": path})
    yield Attempt("engine-4", group, "its TCP port", "tcp", {"host": "127.0.0.1", "port": 2375})
    canary = {"path": t.engine_socket}
    yield Attempt("engine-5", group, "a mounted socket (there is none here)", "unix", canary, control=True)


def _kernel() -> Iterator[Attempt]:
    group = "kernel"
    call = {"name": "unshare", "arguments": [0x10000000 | 0x40000000]}
    yield Attempt("namespace-1", group, "a user and network namespace of its own", "system_call", call)
    yield Attempt("namespace-2", group, "the files of process 1", "read", {"path": "/proc/1/root/etc/shadow"})
    yield Attempt("namespace-3", group, "change the interface", "change_network")
    netlink = {"family": 16, "kind": int(socket.SOCK_RAW), "protocol": _NETLINK_AUDIT}
    yield Attempt("netlink-1", group, "netlink beyond routes (audit)", "socket", netlink, control=True)
    vsock = {"family": _VSOCK, "kind": int(socket.SOCK_STREAM)}
    yield Attempt("vsock-1", group, "AF_VSOCK: ignores network namespaces", "socket", vsock, control=True)
    yield Attempt("vsock-2", group, "AF_VSOCK by a 32-bit call", "socketcall_32", {"family": _VSOCK}, control=True)
    inet = {"family": 2}
    yield Attempt("32-bit", group, "any socket by a 32-bit call", "socketcall_32", inet, control=True)
    uring = {"name": "io_uring_setup", "arguments": [1, 0]}
    yield Attempt("io-uring", group, "io_uring", "system_call", uring, control=True)
    for name, family, kind in (("AF_ALG", _ALG, 5), ("Bluetooth", _BLUETOOTH, 3)):
        yield Attempt(f"family-{family}", group, name, "socket", {"family": family, "kind": kind})


def _workspace() -> Iterator[Attempt]:
    group = "files"
    yield Attempt("files-1", group, "sockets and FIFOs to be found", "doors", {"roots": ["/workspace", "/sandbox"]})
    yield Attempt("files-2", group, "the workspace's keys", "read", {"path": "/workspace/.cloned/identity.key"})
    for number, target in enumerate(("/etc/shadow", "/proc/self/environ")):
        arguments = {"name": f"link-{number + 1}", "target": target}
        yield Attempt(f"scratch-{number + 1}", group, f"a planted link to {target} is followed", "plant", arguments)


def _asked(name: str, group: str, what: str, head: str, *, expected: str = "blocked", reason: str = "") -> Attempt:
    arguments = {"head": head, "refusals": list(_REFUSED), "reason": reason}
    return Attempt(name, group, what, "proxy", arguments, expected=expected)


def _connect(host: str, port: int, *extra: str) -> str:
    return "\n".join([f"CONNECT {host}:{port} HTTP/1.1", f"Host: {host}:{port}", *extra])


def _proxy(t: Targets) -> Iterator[Attempt]:
    group = "proxy abuse"
    yield _asked("proxy-ok", group, "the one allowed way is open", _connect("localhost", t.raw), expected="open")
    for name, what, host in (
        ("proxy-name", "a denied name (must not be resolved)", DENIED_NAME),
        ("proxy-doh", "DNS over HTTPS at a denied host", "dns.denied.example"),
    ):
        yield _asked(name, group, what, _connect(host, 443), reason=_UNRESOLVED)
    yield _asked("proxy-ssh", group, "port 22 of an allowed name", _connect("localhost", 22))
    spellings = ("127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "127.1", "0x7f000001", "2130706433", "0.0.0.0")  # noqa: S104  a target
    for number, host in enumerate((*spellings, *t.host_addresses[:1])):
        text = in_brackets(host)
        yield _asked(f"proxy-ip-{number + 1}", group, f"the host as {text}", _connect(text, t.tcp))
    plain = f"GET http://127.0.0.1:{t.tcp}/ HTTP/1.1\nHost: 127.0.0.1:{t.tcp}"
    yield _asked("proxy-plain", group, "loopback by plain HTTP", plain)
    origin = f"GET / HTTP/1.1\nHost: 127.0.0.1:{t.tcp}"
    yield _asked("proxy-origin", group, "the proxy as a web server", origin)
    forgeries = (
        f"Proxy-Authorization: Basic {t.forged}",
        f"Proxy-Authorization: Bearer {t.forged_token}",
        f"X-Cloned-Tool-Token: {t.forged_token}",
        f"X-Cloned-Tool: {OTHER_TOOL}",
    )
    for number, header in enumerate(forgeries):
        # 127.0.0.1 is allowed to the other tool: only the identity stands between.
        head = _connect("127.0.0.1", t.tcp, header)
        yield _asked(f"identity-{number + 1}", group, f"another tool's name in {' '.join(header.split()[:-1])}", head)
    yield Attempt("listener", group, "a second listener on 8081", "second_listener")
    front = {"head": _connect("localhost", t.tls), "server_name": DENIED_NAME}
    named = {"head": _connect("localhost", t.tls), "server_name": "localhost"}
    yield Attempt("front-ok", group, "TLS under the tunnel's own name passes", "front", named, expected="open")
    yield Attempt("front-sni", group, "another name in the TLS of an allowed tunnel", "front", front)
    nameless = {"head": _connect("localhost", t.tls), "server_name": None}
    yield Attempt("front-none", group, "no name in the TLS of an allowed tunnel", "front", nameless)
    header = f"CONNECT {DENIED_NAME}:443 HTTP/1.1\nHost: localhost:{t.tls}"
    yield _asked("front-host", group, "an allowed name in Host only", header)
    line = f"GET http://{DENIED_NAME}/ HTTP/1.1\nHost: localhost:{t.tls}"
    yield _asked("front-absolute", group, "an allowed Host, a denied target", line)
