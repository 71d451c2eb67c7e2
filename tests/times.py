"""Where the suite's time goes: `make test-times`, by folder, by process, and the groups that take longest.

`-p tests.times` loads it in each process. CPU time is that of a process and all that descends from it, so a container's
and its engine's is missing; the last line has that of the whole machine.
"""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Final

import pytest

from tests.groups import group_of

LONGEST: Final = 40
_TICKS: Final = os.sysconf("SC_CLK_TCK")


@dataclass
class Spent:
    """What the tests of a module or a folder took; `cpu` and `wall` in seconds."""

    cases: int = 0
    cpu: float = 0.0
    wall: float = 0.0

    def add(self, cases: int, cpu: float, wall: float) -> None:
        self.cases += cases
        self.cpu += cpu
        self.wall += wall

    def row(self, name: str) -> str:
        return f"{name:60} {self.cases:6} {self.cpu:8.1f} {self.wall:8.1f}"


@dataclass(frozen=True)
class Process:
    """One process of the suite: how long it ran, how long it tested, and when its last test ended (seconds)."""

    name: str
    wall: float
    testing: float
    last: float


class Times:
    """The times of one process and, where that one leads others, of all of them."""

    def __init__(self) -> None:
        self.modules: defaultdict[str, Spent] = defaultdict(Spent)
        self.processes: list[Process] = []
        self._machine = _machine()
        self._cpu = _of_all_that_descends()
        self._began = self._last = time.monotonic()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> Generator[None, object, object]:
        began, module = time.monotonic(), item.nodeid.partition("::")[0]
        try:
            return (yield)
        finally:
            self._last = time.monotonic()
            self.modules[module].add(1, 0.0, self._last - began)
            # Reading /proc takes milliseconds: once a module, not once a test.
            if nextitem is None or nextitem.nodeid.partition("::")[0] != module:
                cpu = _of_all_that_descends()
                self.modules[module].cpu += max(0.0, cpu - self._cpu)
                self._cpu = cpu

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        name = os.environ.get("PYTEST_XDIST_WORKER", "one")
        if self._last > self._began:  # else it only leads others
            testing = sum(spent.wall for spent in self.modules.values())
            process = Process(name, time.monotonic() - self._began, testing, self._last - self._began)
            self.processes.append(process)
        if (output := getattr(session.config, "workeroutput", None)) is not None:
            output["times"] = {name: (spent.cases, spent.cpu, spent.wall) for name, spent in self.modules.items()}
            output["process"] = [(each.name, each.wall, each.testing, each.last) for each in self.processes]

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        output: dict[str, Any] = getattr(node, "workeroutput", {})
        for module, spent in output.get("times", {}).items():
            self.modules[module].add(*spent)
        self.processes.extend(Process(*each) for each in output.get("process", []))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self.modules:
            return
        folders: defaultdict[str, Spent] = defaultdict(Spent)
        groups: defaultdict[str, Spent] = defaultdict(Spent)
        for module, spent in self.modules.items():
            for sums, name in ((folders, _folder(module)), (groups, group_of(module))):
                sums[name].add(spent.cases, spent.cpu, spent.wall)
        for title, table in (("folder", folders), (f"the {LONGEST} groups that take longest", groups)):
            terminalreporter.section(title)
            terminalreporter.line(f"{'':60} {'cases':>6} {'CPU s':>8} {'wall s':>8}")
            for name, spent in sorted(table.items(), key=lambda pair: -pair[1].wall)[:LONGEST]:
                terminalreporter.line(spent.row(name))
        terminalreporter.section("processes")
        for each in sorted(self.processes, key=lambda process: process.name):
            terminalreporter.line(
                f"{each.name}: {each.wall:.0f} s, testing {each.testing:.0f} s, last test ended at {each.last:.0f} s"
            )
        now = _machine()
        busy = now["busy"] - self._machine["busy"]
        idle = now["idle"] - self._machine["idle"]
        terminalreporter.line(
            f"the machine: {busy:.0f} s of CPU used by everything on it, {idle:.0f} s idle or waiting for a disk"
        )


def _folder(module: str) -> str:
    """Two levels: `proxy/plain`, `runner/runs`, `e2e`."""
    return "/".join(PurePath(module).parts[1:-1][:2]) or "."


def _of_all_that_descends() -> float:
    """CPU seconds of this process, of all that descends from it, and of their children that have ended."""
    parents, ticks = {}, Counter[int]()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        pid = int(path.parent.name)
        parents[pid] = int(fields[1])
        ticks[pid] = sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime (proc_pid_stat(5))
    found, more = {os.getpid()}, {os.getpid()}
    while more:
        more = {pid for pid, parent in parents.items() if parent in more} - found
        found |= more
    return sum(ticks[pid] for pid in found) / _TICKS


def _machine() -> dict[str, float]:
    """CPU seconds since the start of the machine, of all of its CPUs."""
    user, nice, system, idle, wait, *others = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9])
    return {"busy": (user + nice + system + sum(others)) / _TICKS, "idle": (idle + wait) / _TICKS}


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Times(), "times")
