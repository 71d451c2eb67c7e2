"""The sandbox with an outside: a fake internet in a namespace of its own, with its own DNS, canaries and a sniffer.

The proxy runs in there; what it forwards, resolves or dials is seen by others. A slot with a way out is the control.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest

from cloned_proxy.runner.docker.engine import Engine
from tests.net.world import ROOT, World

pytestmark = [
    pytest.mark.docker,
    pytest.mark.net,
    pytest.mark.skipif(os.geteuid() != 0, reason="entering a namespace of the engine takes root"),
]
PROGRAM = [sys.executable, "-m", "tests.runner.outside"]
HERE = {"PYTHONPATH": str(ROOT)}
OUTSIDE = {
    "198.51.100.7", "203.0.113.9", "10.255.255.1", "192.168.255.1", "169.254.169.254", "239.255.1.1",
    "255.255.255.255", "2001:db8::7", "fd00:ec2::254",
}  # fmt: skip
"""Where the probe tries to get; in the fake internet all of it arrives."""


def probed(world: World, *words: str) -> tuple[dict[str, Any], Counter[str]]:
    """The report of one probe, and how many frames went where meanwhile."""
    world.reset()
    sniffer = world.spawn([*PROGRAM, "sniff"], env=HERE, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert sniffer.stdout is not None
    assert sniffer.stdout.readline() == b"listening\n"
    done = world.run([*PROGRAM, "probe", *words], env=HERE, timeout=90)
    world.settle()
    seen, _ = sniffer.communicate(timeout=10)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), Counter(line.split()[1] for line in seen.decode().splitlines())


def test_nothing_of_the_probe_arrives_outside(world: World, images: Engine) -> None:
    report, frames = probed(world)
    bad = [line for line in report["attempts"] if line["result"] != "ok"]
    assert bad == []
    assert report["sealed"]
    assert OUTSIDE & frames.keys() == set()
    assert frames["127.0.0.1"] > 0, "the sniffer saw not even the allowed flow"
    assert world.contacts() == []
    assert world.dns_names() == [], "a denied name was resolved"


def test_a_slot_with_a_way_out_is_found_by_probe_sniffer_and_canaries(world: World, images: Engine) -> None:
    report, frames = probed(world, "leaky")
    leaks = {line["id"] for line in report["attempts"] if line["result"] == "leak"}
    assert not report["sealed"]
    assert {"direct-1", "direct-2", "direct-3", "direct-4", "udp-1", "dns-5", "ipv6-1", "metadata-1"} <= leaks
    assert OUTSIDE - {"239.255.1.1", "255.255.255.255"} <= frames.keys()
    assert ("198.51.100.7", 443) in {(contact.address, contact.port) for contact in world.contacts()}
