"""Two hundred runs leave nothing: no container, directory, descriptor, thread or growth."""

from __future__ import annotations

import concurrent.futures
import os
import threading
from pathlib import Path

import pytest

from cloned_proxy.runner.engine import Engine
from cloned_proxy.runner.runner import DockerContainerRunner
from tests.runner.conftest import Serving, leftovers
from tests.runner.jobs import sh

pytestmark = [pytest.mark.docker, pytest.mark.slow]
RUNS = 200


def _descriptors(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


@pytest.mark.timeout(300)
def test_two_hundred_runs_leave_nothing_behind(module_serving: Serving, engine: Engine) -> None:
    server = module_serving.process.pid
    with DockerContainerRunner(workspace=module_serving.workspace, spare_slots=2) as runner:

        def one(number: int) -> int:
            return sh(runner, f"echo x > /sandbox/f; exit {number % 3}", tool=f"tool{number % 5}@v1").code

        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            assert list(pool.map(one, range(10))) == [number % 3 for number in range(10)]
            before = _descriptors(os.getpid()), _descriptors(server), threading.active_count()
            assert list(pool.map(one, range(RUNS))) == [number % 3 for number in range(RUNS)]
            after = _descriptors(os.getpid()), _descriptors(server), threading.active_count()
        # The engine's client keeps some connections more or less; what each run lost would show two hundred times.
        assert all(now <= then + RUNS // 20 for then, now in zip(before, after, strict=True)), (before, after)
        assert leftovers(engine, module_serving.workspace) == []
    assert leftovers(engine, module_serving.workspace) == []
    assert not any("/slots/" in str(path) for path in Path(module_serving.workspace).rglob("*"))
