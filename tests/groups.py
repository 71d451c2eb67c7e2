"""How the processes of the suite share its modules: which of them stay together, who gets which, and in what order.

A process takes one group of tests after the other, each whole; a group is a module unless `GROUPS` names a larger one.
An engine is dear to start and to fill with images, so at most half of the processes have one, and these take what needs
an engine before all else. `make test-times` prints what `LONGEST_FIRST` is written from.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Any, Final

import pytest
from xdist.scheduler import LoadScopeScheduling

HERE: Final = Path(__file__).parent
GROUPS: Final = {
    "runner/llm": "the local model",
    "runner/test_seed.py": "the local model",
    "runner/mcp": "real MCP servers",
    "runner/transparent/test_fetch_server.py": "real MCP servers",
    "dashboards": "Prometheus",
}
"""Folder or module to group: a local model has the one port of its Compose file, one image has the MCP servers, and two
Prometheus that scrape each second are enough work to disturb each other."""
LONGEST_FIRST: Final = (
    "the local model",
    "real MCP servers",
    "compose/test_stack.py",
    "runner/runs/",
    "runner/pipelines/test_run.py",
    "control/browser/",
    "Prometheus",
    "e2e/",
    "cli/",
)
"""How groups begin that take long: the last one would otherwise run while the other processes wait."""


class ByGroup(LoadScopeScheduling):  # type: ignore[misc]  # xdist ships no types
    """Gives a process one group after the other, each whole."""

    def __init__(self, config: pytest.Config, log: Any) -> None:
        super().__init__(config, log)
        self._engines = max(1, self.numnodes // 2)
        self._with_engine: list[Any] = []

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)

    def remove_node(self, node: Any) -> Any:
        """A process that ends gives its engine up: the one that is started for one that crashed may have one."""
        if node in self._with_engine:
            self._with_engine.remove(node)
        return super().remove_node(node)

    def _assign_work_unit(self, node: Any) -> None:
        if not self._may_have_engine(node) and all(map(needs_engine, self.workqueue.values())):
            node.shutdown()  # once it has done what it was given
            return
        group = self._next(node)
        if needs_engine(self.workqueue[group]) and node not in self._with_engine:
            self._with_engine.append(node)
        self.workqueue.move_to_end(group, last=False)  # the base class takes the first
        super()._assign_work_unit(node)

    def _next(self, node: Any) -> str:
        """The first that suits the process; where none is left that does, the first of the others."""
        may = self._may_have_engine(node)
        waiting: dict[str, dict[str, bool]] = self.workqueue
        suiting = (group for group, tests in waiting.items() if needs_engine(tests) is may)
        return next(suiting, next(iter(waiting)))

    def _may_have_engine(self, node: Any) -> bool:
        return node in self._with_engine or len(self._with_engine) < self._engines


def group_of(nodeid: str) -> str:
    """The group of a test: its module, or what `GROUPS` says."""
    return _group(_module(nodeid))


def rank_of(nodeid: str) -> int:
    """Where its group begins: lower is earlier."""
    return _rank(_module(nodeid))


def needs_engine(tests: Iterable[str]) -> bool:
    """Whether one of the tests is marked as one that does, or lies beside one."""
    return any(_has_docker_tests(module) for module in {_module(test) for test in tests})


def _module(nodeid: str) -> str:
    return nodeid.partition("::")[0]


# Once for a module: each process asks for ten thousand tests, and looking at paths takes longer than all else here.
@functools.cache
def _group(module: str) -> str:
    place = _place(module)
    return next((group for part, group in GROUPS.items() if place.is_relative_to(part)), str(place))


@functools.cache
def _rank(module: str) -> int:
    group = _group(module)
    return next((rank for rank, start in enumerate(LONGEST_FIRST) if group.startswith(start)), len(LONGEST_FIRST))


@functools.cache
def _has_docker_tests(module: str) -> bool:
    return b"pytest.mark.docker" in (HERE / _place(module)).read_bytes()


def _place(module: str) -> PurePath:
    return PurePath(module).relative_to(HERE.name)
