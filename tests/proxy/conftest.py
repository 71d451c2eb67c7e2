from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest
import structlog
import uvloop

from tests.proxy.support import SERVING, need_plane

_HERE: Final = Path(__file__).parent

_ON_BOTH_LOOPS = {
    "test_plain_http.py",
    "test_plain_http_bodies.py",
    "test_plain_http_cuts.py",
    "test_plain_http_faults.py",
    "test_plain_http_flow.py",
    "test_plain_http_pool.py",
    "test_plain_http_websocket.py",
    "test_gate.py",
    "test_gone_peers.py",
    "test_late_upstreams.py",
    "test_gate_cuts.py",
    "test_gate_heads.py",
    "test_gate_hellos.py",
    "test_gate_inspected.py",
    "test_relay.py",
    "test_dial.py",
    "test_faults.py",
    "test_bulk.py",
    "test_garbage.py",
    "test_porch.py",
    "test_door.py",
    "test_room.py",
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
    "gate/test_gate.py": _ALL,
    "gate/test_gate_cuts.py": _ALL,
    "gate/test_gate_heads.py": _ALL,
    "gate/test_gate_hellos.py": _ALL,
    "gate/test_gate_inspected.py": _ALL,
    "transport/test_relay.py": _ALL,
    "test_faults.py": _ALL,
    "test_changes_under_load.py": ("test_nothing", "test_control_what"),
    "gate/test_door.py": _ALL,
    "gate/test_room.py": _ALL,
    "test_garbage.py": _ALL,
    "tunnel/test_further_hellos.py": _ALL,
    "tunnel/test_idle.py": _ALL,
    "test_slow_log.py": _ALL,
    "enforce/test_slow_record.py": _ALL,
    "upstream/chained/test_front_tls.py": ("test_",),
    "upstream/chained/test_tunnels.py": ("test_",),
    "upstream/chained/test_which_way.py": ("test_",),
    "plain/test_plain_http.py": _ALL,
    "plain/test_plain_http_bodies.py": _ALL,
    "plain/test_plain_http_cuts.py": _ALL,
    "plain/test_plain_http_faults.py": _ALL,
    "plain/test_plain_http_flow.py": _ALL,
    "plain/test_plain_http_pool.py": _ALL,
    "plain/test_plain_http_websocket.py": _ALL,
    "plane/test_plane_plain.py": ("test_both_gates",),
    "tunnel/test_ended_early.py": ("test_a_request_that_ends_early",),
}
"""Tests, by file, whose gate must behave the same with the native plane in front: how their names begin."""

_OF_PYTHON_ALONE: Final = (
    "test_a_storm_of_eagain_costs_no_byte",
    "test_small_writes_are_not_delayed_on_the_clients_side",
    # A head that is not plainly in order is Python's; that the plane takes none of them is `test_fuzz_plane.py`.
    "test_a_malformed_head_is_400_however_it_is_fed",
    # These break a step of Python, or set the clock of its pool; the plane has its own, see `test_plane_plain.py`.
    "test_a_broken_step_closes_and_forwards_nothing",
    "test_a_broken_reader_of_responses_passes_nothing_for_whole",
    "test_what_may_not_be_sent_twice_takes_no_connection_that_its_server_may_be_closing",
    # A verdict holds for as long as what the resolver said: its addresses are those that were checked.
    "test_a_pooled_connection_is_never_taken_for_an_address_that_was_not_checked",
    "test_the_pool_is_bounded",
)
"""Tests in them that look into the Python relay, count on a gate that accepts on the loop of the test, or are of
what the plane only passes on."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    test = metafunc.definition
    beginnings = _THROUGH_THE_PLANE.get(test.path.relative_to(_HERE).as_posix(), ())
    if test.name.startswith(beginnings) and not test.name.startswith(_OF_PYTHON_ALONE):
        metafunc.parametrize("served_by", ["python", "native"], indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The plane beside the portable loop is tried with `PLANE=require` only: what differs is Python's."""
    if os.environ.get("PLANE") == "require":
        return
    dropped = {item for item in items if _is_native_on_asyncio(item)}
    if dropped:
        config.hook.pytest_deselected(items=[*dropped])
        items[:] = [item for item in items if item not in dropped]


def _is_native_on_asyncio(item: pytest.Item) -> bool:
    chosen = item.name.partition("[")[2].rstrip("]").split("-")
    return item.path.name in _ON_BOTH_LOOPS and "native" in chosen and "asyncio" in chosen


@pytest.fixture(autouse=True)
def served_by(request: pytest.FixtureRequest) -> Iterator[None]:
    """What serves the common case in the `world` of a test."""
    SERVING.native = getattr(request, "param", "python") == "native"
    if SERVING.native:
        need_plane()
    yield
    SERVING.native, SERVING.threads, SERVING.queue = False, 1, 10_000


@pytest.fixture
def native(served_by: None) -> None:
    """Has the native plane serve in the `world` of a test."""
    need_plane()
    SERVING.native = True


@pytest.fixture(autouse=True)
def plain_tracebacks() -> Iterator[None]:
    """As the program logs: structlog's default draws the locals of every frame, seconds of work inside the loop."""
    plain = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[structlog.processors.add_log_level, plain])
    yield
    structlog.reset_defaults()
