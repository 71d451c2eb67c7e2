"""The process that is the fake internet: runs in its own network and mount namespaces, ends with its control socket.

Started by `world.py` as `python -m tests.net.inside DIRECTORY`. It makes every address there is local to this
namespace, puts its own resolver and CA where programs look for them, starts the servers, and then obeys one client.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Final

import certifi

from tests.net.canary import Canaries
from tests.net.dns_server import DnsServer
from tests.net.site import Site
from tests.net.tls_stream import Certificates
from tests.net.zone import RESOLVER

_ADDRESSES: Final = (
    ("link", "set", "lo", "up"),
    # Two addresses of its own, or getaddrinfo (AI_ADDRCONFIG) thinks that there is no network.
    ("addr", "add", "93.184.216.1/32", "dev", "lo"),
    ("-6", "addr", "add", "2606:2800:220:1::1/128", "dev", "lo", "nodad"),
    # Everything else is local too: whatever leaks, arrives. There is no route out, and no other interface.
    ("route", "add", "local", "0.0.0.0/0", "dev", "lo"),
    ("-6", "route", "add", "local", "::/0", "dev", "lo"),
)


def _make_network() -> None:
    for arguments in _ADDRESSES:
        subprocess.run(("ip", *arguments), check=True)
    Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("20000 65000\n")


def _mount_over(target: Path, content: str, directory: Path) -> None:
    """Shows `content` at `target` inside this mount namespace only."""
    if not target.exists():
        return
    source = directory / f"mounted-{target.name}"
    source.write_text(content)
    subprocess.run(("mount", "--bind", str(source), str(target.resolve())), check=True)


def _mount_all(directory: Path, certificate: str) -> None:
    _mount_over(Path("/etc/resolv.conf"), f"nameserver {RESOLVER}\noptions timeout:2 attempts:2\n", directory)
    _mount_over(Path("/etc/hosts"), "127.0.0.1 localhost\n::1 localhost\n", directory)
    _mount_over(Path("/etc/nsswitch.conf"), "hosts: files dns\n", directory)
    # Where OpenSSL, curl, wget and git look, and where certifi's users (requests, httpx, mitmproxy) do.
    for bundle in {ssl.get_default_verify_paths().openssl_cafile, "/etc/ssl/certs/ca-certificates.crt"}:
        _mount_over(Path(bundle), certificate, directory)
    _mount_over(Path(certifi.where()), certificate, directory)


class Commands:
    """What the test process may ask; each method takes and returns plain JSON values."""

    def __init__(self, dns: DnsServer, canaries: Canaries) -> None:
        self._dns = dns
        self._canaries = canaries

    def reset(self) -> None:
        self._dns.reset()
        self._canaries.contacts.clear()

    def names(self) -> list[str]:
        return list(self._dns.asked)

    def contacts(self, marker: str) -> list[dict[str, Any]]:
        """Every connection, with whether the marker was among its bytes."""
        wanted = marker.encode("latin-1")
        return [
            {"address": c.address, "port": c.port, "count": c.count, "marker": bool(wanted) and c.saw(wanted)}
            for c in list(self._canaries.contacts)
        ]

    def text(self, address: str, port: int) -> str:
        """What arrived at one address and port, inside TLS where there was TLS."""
        contacts = [c for c in list(self._canaries.contacts) if (c.address, c.port) == (address, port)]
        return b"".join(bytes(c.inside or c.wire) for c in contacts).decode("latin-1")


def _connect(order: dict[str, Any]) -> socket.socket:
    if "unix" in order:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(order["unix"])
        return connection
    return socket.create_connection((order["host"], order["port"]), timeout=30)


def _obey(control: socket.socket, commands: Commands) -> None:
    reader = control.makefile("rb")
    for line in reader:
        order = json.loads(line)
        if order["do"] == "connect":
            try:
                with _connect(order) as connection:
                    socket.send_fds(control, [b'{"ok": true}\n'], [connection.fileno()])
            except OSError as error:
                control.sendall(json.dumps({"error": str(error)}).encode() + b"\n")
        else:
            result = getattr(commands, order.pop("do"))(**order)
            control.sendall(json.dumps({"ok": result}).encode() + b"\n")


def main() -> None:
    directory = Path(sys.argv[1])
    _make_network()
    certificates = Certificates(directory)
    _mount_all(directory, certificates.pem.read_text())
    dns = DnsServer(RESOLVER)
    dns.start()
    canaries = Canaries(certificates, Site(directory / "content"))
    canaries.start()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(directory / "control"))
    listener.listen(1)
    # Nobody took the control connection: the test process is gone, and so are we.
    watchdog = threading.Timer(60, os._exit, (1,))
    watchdog.daemon = True
    watchdog.start()
    control, _ = listener.accept()
    watchdog.cancel()
    _obey(control, Commands(dns, canaries))
    os._exit(0)


if __name__ == "__main__":
    main()
