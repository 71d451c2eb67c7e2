"""The probe again, with somebody listening on every interface of the host who does not take the probe's word."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.probe.run import ProbeOptions, run_probe

pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(os.geteuid() != 0, reason="listening on interfaces takes root"),
]
ALL_PROTOCOLS = 0x0003
TARGETS = [
    "198.51.100.7",
    "203.0.113.9",
    "10.255.255.1",
    "192.168.255.1",
    "169.254.169.254",
    "239.255.1.1",
    "127.0.0.11",
]
TARGETS_6 = ["2001:db8::7", "ff05::1", "fd00:ec2::254"]
PACKED = [socket.inet_aton(text) for text in TARGETS] + [socket.inet_pton(socket.AF_INET6, text) for text in TARGETS_6]


@contextmanager
def sniffing() -> Iterator[list[bytes]]:
    """Every frame on every interface of the host whose IP destination is one of the probe's."""
    found: list[bytes] = []
    done = threading.Event()

    def listen(sock: socket.socket) -> None:
        while not done.is_set():
            try:
                frame = sock.recv(65_536)
            except TimeoutError:
                continue
            if frame[30:34] in PACKED or frame[38:54] in PACKED:
                found.append(frame)

    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_PROTOCOLS)) as sock:
        sock.settimeout(0.2)
        thread = threading.Thread(target=listen, args=(sock,))
        thread.start()
        try:
            yield found
        finally:
            time.sleep(0.3)
            done.set()
            thread.join()


def test_the_sniffer_sees_a_packet_that_is_sent() -> None:
    with sniffing() as found, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"here", ("127.0.0.11", 9))  # loopback, and one of the probe's targets
    assert any(b"here" in frame for frame in found)


def test_no_packet_of_the_probe_reaches_any_interface_of_the_host(images: Engine) -> None:
    with sniffing() as found:
        report = run_probe(lambda _: None, ProbeOptions(controls=False))
    assert report.sealed
    assert found == []
