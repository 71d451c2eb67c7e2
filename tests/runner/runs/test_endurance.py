"""Two hundred runs leave nothing: no container, directory, descriptor, thread or growth."""

from __future__ import annotations

import concurrent.futures
import gc
import os
import threading
from pathlib import Path

import pytest

from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.runs.runner import DockerContainerRunner
from tests.runner.conftest import Serving, leftovers
from tests.runner.jobs import sh

pytestmark = [pytest.mark.docker, pytest.mark.slow]
WARM_UP = 40
"""Runs until the engine's client has all the connections that it keeps."""
RUNS = 200


def _descriptors(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def _held(server: int) -> tuple[int, int, int]:
    gc.collect()  # what only waits for it is no leak
    return _descriptors(os.getpid()), _descriptors(server), threading.active_count()


@pytest.mark.timeout(300)
def test_two_hundred_runs_leave_nothing_behind(module_serving: Serving, engine: Engine) -> None:
    server = module_serving.process.pid
    with DockerContainerRunner(workspace=module_serving.workspace, spare_slots=2) as runner:

        def one(number: int) -> int:
            return sh(runner, f"echo x > /sandbox/f; exit {number % 3}", tool=f"tool{number % 5}@v1").code

        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            assert list(pool.map(one, range(WARM_UP))) == [number % 3 for number in range(WARM_UP)]
            before = _held(server)
            assert list(pool.map(one, range(RUNS))) == [number % 3 for number in range(RUNS)]
            after = _held(server)
        assert all(now <= then + 3 for then, now in zip(before, after, strict=True)), (before, after)
        assert leftovers(engine, module_serving.workspace) == []
    assert leftovers(engine, module_serving.workspace) == []
    assert not any("/slots/" in str(path) for path in Path(module_serving.workspace).rglob("*"))
