"""A proxy without guards fails the attacks: an attack that nothing could lose proves nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.net.attacks import destinations, framing, inspected, tunnels
from tests.net.attacks.attempt import Attack, gets_through
from tests.net.attacks.policies import CONFIG, POLICIES
from tests.net.proxy_process import ProxyOptions, ProxyProcess
from tests.net.world import ROOT, World

pytestmark = pytest.mark.net

# What even this proxy does not forward: its resolver or its parser has no idea what is meant. These stand guard
# against a cleverer one.
_HOPELESS = (
    *("two trailing dots", "an empty label", "a name of only a dot", "a percent-encoded dot", "a percent-encoded NUL"),
    *("a fragment", "a semicolon", "a comma list", "port 0", "a negative port", "a zone index"),
    *("a rebinding name on one connection", "the file scheme", "the HTTP/2 preface"),
    # An endless loop: it has no head limit and no idea of itself.
    *("the proxy dialling itself", "the proxy dialling its metrics"),
    # It gives no answer of its own; a build of ours without the guard is what this one walks through.
    "a request in a body behind a timeout",
)
_TABLES = (destinations.ATTACKS, tunnels.ATTACKS, framing.ATTACKS, inspected.ATTACKS)
ATTACKS = [
    a for table in _TABLES for a in table if a.name.removeprefix("http: ").removeprefix("tunnel: ") not in _HOPELESS
]


@pytest.fixture(scope="module")
def open_proxy(world: World) -> Iterator[ProxyProcess]:
    program = (sys.executable, str(ROOT / "tests" / "net" / "open_proxy.py"))
    proxy = world.serve(POLICIES["gate"]["base"], ProxyOptions(program=program, config=CONFIG))
    yield proxy
    proxy.stop()


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_open_proxy_lets_it_through(world: World, open_proxy: ProxyProcess, attack: Attack) -> None:
    # Most are through at once; what is slow gets more time, and a megabyte on a busy machine much more.
    assert gets_through(world, open_proxy, attack, (0.12, 2.0, 30.0))
