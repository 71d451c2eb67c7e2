"""Crowds of clients that ask for nothing, or for ever: whoever asks beside them is answered, by both gates.

`CROWD=10000` makes them as large as they were meant to be; the suite has a thousand.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.cli.program import eventually
from tests.e2e.test_resilience import descriptors, end, hold
from tests.net.attacks.attempt import Attempt
from tests.net.load import ALWAYS
from tests.net.proxy_process import ProxyOptions, ProxyProcess
from tests.net.world import World
from tests.proxy.support import need_plane

pytestmark = [pytest.mark.net, pytest.mark.timeout(300)]

CROWD = int(os.environ.get("CROWD", "1000"))
_POLICY = f"version: 1\nanonymous: global\nglobal:\n  allow: [{ALWAYS}]\n"
_PATIENCE = 120.0

type Serve = Callable[[str], ProxyProcess]


@pytest.fixture(params=["off", "require"])
def serve(fresh_world: World, request: pytest.FixtureRequest) -> Iterator[Serve]:
    """Starts the one proxy of a test, with these settings of `proxy:`."""
    if request.param == "require":
        need_plane()
    running: list[ProxyProcess] = []

    def start(settings: str) -> ProxyProcess:
        config = f"proxy: {{drain_seconds: 0.1, {settings}}}\n"
        running.append(fresh_world.serve(_POLICY, ProxyOptions(config=config, plane=request.param)))
        return running[0]

    yield start
    for proxy in running:
        proxy.kill()


@contextmanager
def crowd(proxy: ProxyProcess, count: int, *arguments: str) -> Iterator[None]:
    process = hold(proxy, count, *arguments)
    try:
        yield
    finally:
        end(process)


def passes(proxy: ProxyProcess) -> bool:
    """Whether a plain request and a tunnel get through, however long they wait, by what arrives."""
    attempt = Attempt(proxy.world, proxy, _PATIENCE)
    attempt.get(ALWAYS)
    attempt.fetch(ALWAYS)
    return len(proxy.world.saw(attempt.marker)) == 2


def test_who_asks_for_nothing_costs_little_and_is_in_nobodys_way(serve: Serve) -> None:
    proxy = serve("head_timeout: 600")
    assert passes(proxy)
    before = proxy.resident()
    with crowd(proxy, CROWD):
        assert passes(proxy)
        each = (proxy.resident() - before) / CROWD
        assert each < 16_384, f"{each:.0f} bytes for each idle connection"
    assert passes(proxy)


def test_heads_of_one_byte_a_second_are_in_nobodys_way_and_end(serve: Serve) -> None:
    proxy = serve("head_timeout: 3")
    assert passes(proxy)
    idle = descriptors(proxy)
    with crowd(proxy, CROWD, "1"):
        assert passes(proxy)
        eventually(lambda: descriptors(proxy) <= idle + 20, what="the end of the slow heads")
        assert passes(proxy)


def test_heads_of_one_byte_a_second_that_hold_all_places_give_them_to_who_asks(serve: Serve) -> None:
    """Their clients come again as soon as they are let go of."""
    proxy = serve(f"head_timeout: 600, max_connections: {CROWD * 3 // 4}")
    assert passes(proxy)
    with crowd(proxy, CROWD, "1", "again"):
        assert passes(proxy)


def test_where_idle_clients_hold_all_descriptors_who_asks_is_answered(serve: Serve) -> None:
    proxy = serve("head_timeout: 600")
    assert passes(proxy)
    highest = descriptors(proxy) + 100
    resource.prlimit(proxy.process.pid, resource.RLIMIT_NOFILE, (highest, highest))
    with crowd(proxy, 120):
        # The last ones are kept for who has come in.
        eventually(lambda: descriptors(proxy) > highest * 3 // 4, what="the last descriptor of a client")
        assert passes(proxy)
