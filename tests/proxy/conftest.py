from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

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
