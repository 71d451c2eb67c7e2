"""What the probe tries to reach on this host: sockets that note whoever comes."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import secrets
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloned_proxy.local.unix_sockets import short_path

_INTERFACE_REQUEST: Final = struct.Struct("16s16x8x")
_PATIENCE: Final = 10.0
"""Seconds for a ClientHello: a container that makes seventy attempts on one busy processor takes its time."""
_SERVER_HELLO: Final = b"\x16\x03\x03\x00\x2a" + b"\x02\x00\x00\x26" + b"\x03\x03" + bytes(32) + b"\x00\x13\x01\x00"
"""RFC 8446, sections 5.1 and 4.1.3: a record with it, as a server sends it that takes the ClientHello."""
_SIOCGIFADDR: Final = 0x8915
"""netdevice(7)."""


class Canary:
    """A listening socket, or a datagram one, that answers with one line and counts."""

    def __init__(self, sock: socket.socket, *, listens: bool = False) -> None:
        self._sock = sock
        self._listens = listens
        """Says nothing before it has heard something, and then answers like a TLS server."""
        self.heard = b""
        self._lock = threading.Lock()
        self._visits = 0
        self._thread = threading.Thread(target=self._serve, name="canary", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._sock.getsockname()[1])

    @property
    def visits(self) -> int:
        with self._lock:
            return self._visits

    def close(self) -> None:
        # A shutdown wakes the thread that waits in accept or recvfrom; a close alone would not.
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        self._thread.join(2)

    def _serve(self) -> None:
        while True:
            try:
                if self._sock.type == socket.SOCK_DGRAM:
                    _, peer = self._sock.recvfrom(2048)
                    if peer is None:  # shut down
                        return
                    self._count()
                    self._sock.sendto(b"canary\n", peer)
                    continue
                connection, _ = self._sock.accept()
            except OSError:
                return
            self._count()
            with connection, contextlib.suppress(OSError):
                connection.settimeout(_PATIENCE)
                if self._listens:
                    self.heard += connection.recv(4096)
                    connection.sendall(_SERVER_HELLO)
                else:
                    connection.sendall(b"canary\n")

    def _count(self) -> None:
        with self._lock:
            self._visits += 1


@dataclass(frozen=True, slots=True)
class Canaries:
    everywhere: Canary
    """All addresses of the host."""
    datagram: Canary
    abstract: Canary
    abstract_name: str
    tls: Canary
    """Loopback; the policy allows TLS for `localhost` there."""
    raw: Canary
    """Loopback; the policy allows any bytes there."""
    engine: Canary
    """A unix socket in `engine_directory`, as an engine's would be, mounted into the open container only."""
    engine_directory: Path


@contextmanager
def canaries(directory: Path) -> Iterator[Canaries]:
    """All of them, for a while."""
    with ExitStack() as stack:

        def started(sock: socket.socket, *, listens: bool = False) -> Canary:
            canary = Canary(sock, listens=listens)
            stack.callback(canary.close)
            return canary

        everywhere = started(_everywhere())
        datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagram.bind(("127.0.0.1", 0))
        name = f"cloned-probe-{secrets.token_hex(8)}"
        directory.mkdir(mode=0o711, parents=True)
        directory.chmod(0o711)
        path = directory / "canary.sock"
        with short_path(path) as address:
            engine = _listening(socket.AF_UNIX, address)
        path.chmod(0o666)
        stack.callback(path.unlink)
        yield Canaries(
            everywhere=everywhere,
            datagram=started(datagram),
            abstract=started(_listening(socket.AF_UNIX, f"\0{name}")),
            abstract_name=name,
            tls=started(_listening(socket.AF_INET, ("127.0.0.1", 0)), listens=True),
            raw=started(_listening(socket.AF_INET, ("127.0.0.1", 0))),
            engine=started(engine),
            engine_directory=directory,
        )


def _everywhere() -> socket.socket:
    if socket.has_dualstack_ipv6():
        sock = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    else:
        sock = socket.create_server(("", 0))
    return sock


def _listening(family: int, address: str | tuple[str, int]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.bind(address)
    sock.listen(16)
    return sock


def host_addresses() -> tuple[str, ...]:
    """The addresses of every interface but loopback; link-local ones are left out, they need an interface's name."""
    import fcntl  # noqa: PLC0415  Linux only, as is everything that gets here

    found: list[str] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):
                answer = fcntl.ioctl(sock, _SIOCGIFADDR, _INTERFACE_REQUEST.pack(os.fsencode(name)))
                found.append(socket.inet_ntoa(answer[20:24]))
    with contextlib.suppress(OSError):
        lines = Path("/proc/net/if_inet6").read_text(encoding="ascii").splitlines()
        found += [str(ipaddress.IPv6Address(int(line.split()[0], 16))) for line in lines]
    addresses = (ipaddress.ip_address(text) for text in dict.fromkeys(found))
    return tuple(str(a) for a in addresses if not (a.is_loopback or a.is_link_local))
