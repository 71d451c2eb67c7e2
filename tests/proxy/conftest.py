from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping

import pytest
import uvloop

from tests.proxy.support import SERVING, need_plane

_ON_BOTH_LOOPS = {
    "test_plain_http.py",
    "test_plain_http_faults.py",
    "test_gate.py",
    "test_relay.py",
    "test_dial.py",
    "test_faults.py",
    "test_bulk.py",
    "test_garbage.py",
}
"""Files whose behaviour the event loop could change: they run on the one we use and on the portable one."""


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    if item.path.name in _ON_BOTH_LOOPS:
        return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}


_WITH_AND_WITHOUT_PLANE = {
    "test_gate.py",
    "test_relay.py",
    "test_faults.py",
    "test_garbage.py",
    "test_plain_http.py",
    "test_plain_http_faults.py",
    "test_further_hellos.py",
    "test_ended_early.py",
    "test_idle.py",
    "test_slow_log.py",
    "test_slow_record.py",
    "test_echo.py",
    "test_injection.py",
}
"""Files whose gate must behave the same with the native plane in front."""

_OF_PYTHON_ALONE = {
    "test_a_storm_of_eagain_costs_no_byte",
    "test_small_writes_are_not_delayed_on_the_clients_side",
    "test_random_sequences",
}
"""Tests in them that look into the Python relay, or count on a gate that accepts on the loop of the test."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    test = metafunc.definition
    if test.path.name in _WITH_AND_WITHOUT_PLANE and test.name not in _OF_PYTHON_ALONE:
        metafunc.parametrize("served_by", ["python", "native"], indirect=True)


@pytest.fixture(autouse=True)
def served_by(request: pytest.FixtureRequest) -> Iterator[None]:
    """What serves the common case in the `world` of a test."""
    SERVING.native = getattr(request, "param", "python") == "native"
    if SERVING.native:
        need_plane()
    yield
    SERVING.native = False
