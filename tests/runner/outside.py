"""Programs of the sandbox tests that run inside the fake internet: the probe, and who listens there.

python -m tests.runner.outside probe [leaky]    the escape probe with its proxy in here; the report as JSON
python -m tests.runner.outside sniff            one line a frame, on every interface, until stdin ends
"""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
from typing import Final

from cloned_proxy.runner.namespaces.netns import Namespace
from cloned_proxy.runner.probe.run import ProbeOptions, run_probe

_ALL_PROTOCOLS: Final = 0x0003
_IP: Final = 0x0800
_LINK: Final = ("192.0.2.1/24", "192.0.2.2/24")
"""RFC 5737: our end, and the slot's."""
_LINK_6: Final = ("2001:db8:ffff::1/64", "2001:db8:ffff::2/64")


def probe(*, leaky: bool) -> None:
    """Prints the report. Leaky: each slot gets an interface and a default route that lead to this namespace."""
    if leaky:
        genuine = Namespace.of

        def with_a_way_out(container: str, pid: int) -> Namespace:
            _connect(pid)
            return genuine(container, pid)

        Namespace.of = with_a_way_out  # type: ignore[method-assign]
    # No open container: it would be on the network of the engine, which is not in here.
    report = run_probe(lambda _: None, ProbeOptions(controls=False))
    sys.stdout.write(json.dumps(report.as_json()))


def _connect(pid: int) -> None:
    ours, slots = f"out{pid}", f"in{pid}"
    inside = ("nsenter", "--target", str(pid), "--net")
    for command in (
        ("ip", "link", "add", ours, "type", "veth", "peer", "name", slots, "netns", str(pid)),
        ("ip", "addr", "add", _LINK[0], "dev", ours),
        ("ip", "-6", "addr", "add", _LINK_6[0], "dev", ours, "nodad"),
        ("ip", "link", "set", ours, "up"),
        (*inside, "sh", "-c", f"echo 0 >/proc/sys/net/ipv6/conf/{slots}/disable_ipv6"),  # the engine says 1
        (*inside, "ip", "addr", "add", _LINK[1], "dev", slots),
        (*inside, "ip", "-6", "addr", "add", _LINK_6[1], "dev", slots, "nodad"),
        (*inside, "ip", "link", "set", slots, "up"),
        (*inside, "ip", "route", "add", "default", "via", _LINK[0].partition("/")[0]),
        (*inside, "ip", "-6", "route", "add", "default", "via", _LINK_6[0].partition("/")[0]),
    ):
        subprocess.run(command, check=True, capture_output=True)


def sniff() -> None:
    """Writes interface, protocol and destination of each frame with an IP packet in it."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS)) as sock:
        sys.stdout.write("listening\n")
        sys.stdout.flush()
        while True:
            readable, _, _ = select.select([sock, sys.stdin], [], [])
            if sock in readable:
                frame, (interface, *_) = sock.recvfrom(65_536)
                version = frame[14] >> 4
                packed = frame[30:34] if version == 4 else frame[38:54]
                if version in (4, 6) and len(packed) in (4, 16):
                    family = socket.AF_INET if version == 4 else socket.AF_INET6
                    sys.stdout.write(f"{interface} {socket.inet_ntop(family, packed)}\n")
            elif sys.stdin in readable:
                return


if __name__ == "__main__":
    if sys.argv[1] == "sniff":
        sniff()
    else:
        probe(leaky="leaky" in sys.argv)
