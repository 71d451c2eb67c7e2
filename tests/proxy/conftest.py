from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest
import uvloop

from tests.proxy.support import SERVING, need_plane

_HERE: Final = Path(__file__).parent

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


_ALL: Final = ("",)
_THROUGH_THE_PLANE: Final = {
    "test_gate.py": _ALL,
    "test_relay.py": _ALL,
    "test_faults.py": _ALL,
    "test_garbage.py": _ALL,
    "test_further_hellos.py": _ALL,
    "test_idle.py": _ALL,
    "test_slow_log.py": _ALL,
    "test_slow_record.py": _ALL,
    "upstream_proxy/test_tunnels.py": ("test_",),
    # Plain HTTP is Python's: what the plane has to do with it is that the connection comes over whole, and ends.
    "test_plain_http.py": (
        "test_bodies_of_any_size_and_segmentation_arrive_unchanged",
        "test_two_pipelined_requests_of_which_the_second_is_denied",
    ),
    "test_plain_http_faults.py": (
        "test_an_unfinished_head_is_408_and_an_idle_client_is_closed",
        "test_a_stopping_gate_cuts_idle_clients_and_finishes_open_requests",
        "test_websockets_through_the_proxy",
    ),
}
"""Tests, by file, whose gate must behave the same with the native plane in front: how their names begin."""

_OF_PYTHON_ALONE: Final = (
    "test_a_storm_of_eagain_costs_no_byte",
    "test_small_writes_are_not_delayed_on_the_clients_side",
    # A head that is not plainly in order is Python's; that the plane takes none of them is `test_fuzz_plane.py`.
    "test_a_malformed_head_is_400_however_it_is_fed",
)
"""Tests in them that look into the Python relay, count on a gate that accepts on the loop of the test, or are of
what the plane only passes on."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    test = metafunc.definition
    beginnings = _THROUGH_THE_PLANE.get(test.path.relative_to(_HERE).as_posix(), ())
    if test.name.startswith(beginnings) and not test.name.startswith(_OF_PYTHON_ALONE):
        metafunc.parametrize("served_by", ["python", "native"], indirect=True)


@pytest.fixture(autouse=True)
def served_by(request: pytest.FixtureRequest) -> Iterator[None]:
    """What serves the common case in the `world` of a test."""
    SERVING.native = getattr(request, "param", "python") == "native"
    if SERVING.native:
        need_plane()
    yield
    SERVING.native = False
