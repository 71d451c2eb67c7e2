"""`make bench`: us beside Squid, tinyproxy and stock mitmdump; the same work, one run, rounds interleaved.

`BENCH=quick` takes about two minutes and shows that everything runs; only the figures of the full run (at most 25
minutes) are worth quoting, and only from a machine that does nothing else. `python -m bench --page` puts them into
docs/performance.md.
A contender that fails is left out and named at the end; the exit code is then 1.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import uvloop

from bench import cold
from bench.alone import PARTS, run_alone
from bench.contenders import CONTENDERS, Contender, ContenderError, Ours
from bench.install import install_missing
from bench.lasting import memory_over, reload_figures
from bench.measure import Sample, machine_facts
from bench.micro import SIZES, run_micro
from bench.page import write_page
from bench.references import Direct, Floor
from bench.report import Figure, Results, Table, summarise, write
from bench.start import measure as start_ratios
from bench.upstream_process import UpstreamProcess
from bench.workloads import FIRST_AND_FURTHER, SET_UP, WORKLOADS, Download, Workload, idle_memory

_RESULTS: Final = Path(__file__).parent / "results"
_PAGE: Final = Path(__file__).parents[1] / "docs" / "performance.md"
_SHARED_MEMORY: Final = Path("/dev/shm")
_FEW_RULES: Final = 10
_BIG_POLICY: Final = 20_000
_PARTS: Final = (
    "start",
    "micro",
    "load",
    "idle",
    "tunnels",
    "rules",
    "cold",
    "reload",
    "memory",
    *PARTS,
)
_PATIENCE: Final = 60.0
"""Seconds over its own time that a workload may take before it is given up."""
_MOST_SECONDS: Final = 1500.0
"""Bound for a whole run: what has not ended by then is given up, and named among the failures."""
_OTHER_FILES: Final = 200
_COLD: Final = "CONNECT, each to a host that nobody has asked for"


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of everything."""

    name: str
    rounds: int
    seconds: float
    """Length of one workload against one contender in one round."""
    idle_tunnels: int
    many_tunnels: int
    """Open at once in one proxy of ours."""
    reloads: int
    requests: int
    """Requests of the long run; 0 leaves it out."""


_FULL: Final = Plan("full", rounds=3, seconds=2.0, idle_tunnels=1_000, many_tunnels=10_000, reloads=2, requests=20_000)
_QUICK: Final = Plan("quick", rounds=1, seconds=1.0, idle_tunnels=500, many_tunnels=2_000, reloads=2, requests=0)


class Bench:
    """One run. Everything it starts is a child of this process and ended by it."""

    def __init__(self, plan: Plan, kinds: list[type[Contender]], directory: Path, results: Results) -> None:
        self._plan = plan
        self._kinds = kinds
        self._directory = directory
        self._results = results
        self._ports = (0, 0)
        self._started = 0

    async def run(self, parts: list[str]) -> None:
        steps = {
            "start": self._start,
            "micro": self._micro,
            "load": self._load,
            "idle": self._idle,
            "tunnels": self._tunnels,
            "rules": self._rules,
            "cold": self._cold,
            "reload": self._reload,
            "memory": self._memory,
        }
        if (task := asyncio.current_task()) is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        until = asyncio.get_running_loop().time() + _MOST_SECONDS
        with UpstreamProcess(self._directory) as ports:
            self._ports = ports
            for part in parts:
                print(f"{part}:", flush=True)
                with self._reported(part):
                    async with asyncio.timeout_at(until):
                        if part in steps:
                            await steps[part]()
                        else:
                            await run_alone(part, self._plan.rounds, self._results)

    @contextmanager
    def _reported(self, what: str) -> Iterator[None]:
        """A failure ends what it happened in, is told, and leaves the rest of the run alone."""
        try:
            yield
        except (ContenderError, OSError, TimeoutError, RuntimeError, subprocess.SubprocessError) as error:
            problem = f"{what}: {str(error) or type(error).__name__}"
            print(f"  FAILED  {problem}", flush=True)
            self._results.failures.append(problem.splitlines()[0])

    @asynccontextmanager
    async def _running(self, kind: type[Contender], rules: int = _FEW_RULES) -> AsyncIterator[Contender]:
        self._started += 1
        contender = kind(self._directory / f"run{self._started}", self._ports, rules)
        contender.start()
        try:
            yield contender
        finally:
            contender.stop()

    async def _start(self) -> None:
        self._results.start = await asyncio.to_thread(start_ratios, self._plan.rounds * 5)
        for name, found in self._results.start.items():
            print(f"  {name}: {found:.1f} starts of a bare interpreter", flush=True)

    async def _micro(self) -> None:
        self._results.micro = run_micro(self._directory / "micro")
        for name, value in self._results.micro.items():
            print(f"  {name}: {value:.2f} µs", flush=True)

    async def _load(self) -> None:
        """Only the contender at work runs: an idle mitmdump still wakes up and warms the cache with itself."""
        samples: dict[tuple[str, str], list[Sample]] = {}
        for number in range(self._plan.rounds):
            turn = number % len(self._kinds)
            for kind in self._kinds[turn:] + self._kinds[:turn]:
                with self._reported(f"round {number + 1}, {kind.name}"):
                    async with self._running(kind) as contender:
                        for workload in WORKLOADS:
                            if workload.needs_proxy and kind is Direct:
                                continue
                            sample = await self._measured(workload, contender)
                            samples.setdefault((workload.key, kind.name), []).append(sample)
                            _say(number, kind.name, workload.title, sample, workload.unit)
        for workload in WORKLOADS:
            figures = [summarise(k.name, samples.get((workload.key, k.name), [])) for k in self._kinds]
            self._results.tables.append(Table(workload.key, workload.title, workload.unit, tuple(figures)))

    async def _measured(self, workload: Workload | Download, contender: Contender) -> Sample:
        async with asyncio.timeout(self._plan.seconds + _PATIENCE):
            return await workload.run(contender, self._plan.seconds)

    async def _idle(self) -> None:
        figures: list[list[Figure]] = [[], []]
        for kind in self._kinds:
            if kind is Direct:
                continue
            with self._reported(f"idle tunnels, {kind.name}"):
                async with self._running(kind) as contender:
                    found = await idle_memory(contender, self._plan.idle_tunnels, FIRST_AND_FURTHER)
                first, _, further = found.per_thousand
                for of_step, size in zip(figures, (first, further), strict=True):
                    of_step.append(Figure(kind.name, size, 0.0, errors=found.failed))
                print(f"  {kind.name}: {first:.2f}, then {further:.2f} MB per 1000, {found.failed} failed", flush=True)
        for key, which, of_step in zip(("idle-first", "idle"), ("the first", "each further"), figures, strict=True):
            once = ", with what fills up once" if key == "idle-first" else ""
            title = f"Memory of idle tunnels, {which} thousand{once}"
            self._results.tables.append(Table(key, title, "MB RSS per 1000", tuple(of_step), lower_is_better=True))

    async def _tunnels(self) -> None:
        _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
        tunnels = min(self._plan.many_tunnels, (most_files - _OTHER_FILES) // 2)  # each takes two descriptors
        async with self._running(Ours) as ours:
            found = await idle_memory(ours, tunnels)
        self._results.many_tunnels = {"open": found.held, "MB": found.whole}
        print(f"  {found.held} tunnels open: {found.whole:.0f} MB in all, {found.failed} failed", flush=True)

    async def _rules(self) -> None:
        """Ours alone, with one worker: that is what has a target, and the time is that of the parts behind it.

        Every size in every round: a machine that slows down meanwhile slows them all.
        """
        kinds = [kind for kind in self._kinds if kind is Ours]
        samples: dict[tuple[int, str], list[Sample]] = {(rules, kind.name): [] for rules in SIZES for kind in kinds}
        for number in range(self._plan.rounds):
            for kind in kinds:
                for rules in SIZES:
                    with self._reported(f"{rules} rules, {kind.name}"):
                        async with self._running(kind, rules) as contender:
                            sample = await self._measured(SET_UP, contender)
                        samples[rules, kind.name].append(sample)
                        _say(number, kind.name, f"{rules} rules", sample, SET_UP.unit)
        for rules in SIZES:
            figures = tuple(summarise(kind.name, samples[rules, kind.name]) for kind in kinds)
            self._results.tables.append(Table(f"rules{rules}", f"{SET_UP.title}: {rules} rules", SET_UP.unit, figures))

    async def _reload(self) -> None:
        async with self._running(Ours) as ours:
            assert isinstance(ours, Ours)
            figures = await reload_figures(ours, _BIG_POLICY, self._plan.reloads)
        for name, value in asdict(figures).items():
            label = {"active": "save to active", "stall": "longest request meanwhile", "usual": "p99 otherwise"}[name]
            self._results.reload[f"{_BIG_POLICY} hosts: {label}"] = value
            print(f"  {label}: {value:.1f} ms", flush=True)

    async def _memory(self) -> None:
        if self._plan.requests:
            async with self._running(Ours) as ours:
                assert isinstance(ours, Ours)
                self._results.memory = await memory_over(ours, self._plan.requests, 10)

    async def _cold(self) -> None:
        """Every round another start: what is warm in one must not be in the next."""
        samples: dict[str, list[Sample]] = {kind.name: [] for kind in cold.KINDS}
        with cold.upstream() as ports:
            for number in range(self._plan.rounds):
                for kind in cold.KINDS:
                    self._started += 1
                    contender = kind(self._directory / f"run{self._started}", ports, 1)
                    assert isinstance(contender, Ours)
                    try:
                        cold.start(contender)
                        sample = await cold.measure(contender, self._plan.seconds)
                    finally:
                        contender.stop()
                    samples[kind.name].append(sample)
                    _say(number, kind.name, _COLD, sample, SET_UP.unit)
        figures = tuple(summarise(name, found) for name, found in samples.items())
        self._results.tables.append(Table("cold", _COLD, SET_UP.unit, figures))


def _say(number: int, name: str, what: str, sample: Sample, unit: str) -> None:
    failed = f", {sample.errors} FAILED" if sample.errors else ""
    figures = f"{sample.rate:.0f} {unit}, {sample.per_cpu:.0f} per CPU-second"
    print(f"  round {number + 1}  {name:<24} {what:<42} {figures}{failed}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--plan", choices=("full", "quick"), default=os.environ.get("BENCH") or "full")
    parser.add_argument("--only", action="append", choices=_PARTS, help="this part alone; may be repeated")
    parser.add_argument("--contender", action="append", help="this one alone; may be repeated")
    parser.add_argument("--results", type=Path, default=_RESULTS)
    parser.add_argument("--page", action="store_true", help="measure nothing: put the results into docs/performance.md")
    chosen = parser.parse_args()
    if chosen.page:
        return write_page(_PAGE, chosen.results)
    install_missing()
    kinds, versions = _available(chosen.contender)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    plan = _QUICK if chosen.plan == "quick" else _FULL
    command = "make bench" if plan is _FULL else "make bench BENCH=quick"
    results = Results(command, machine_facts(), versions)
    # In memory where that is possible: tinyproxy syncs its log after each line, and the disk is not what is compared.
    with tempfile.TemporaryDirectory(prefix="bench-", dir=_SHARED_MEMORY if _SHARED_MEMORY.is_dir() else None) as name:
        directory = Path(name)
        os.chmod(directory, 0o755)  # noqa: PTH101  Squid, started as root, becomes another user
        uvloop.run(Bench(plan, kinds, directory, results).run(chosen.only or list(_PARTS)))
    for path in write(results, chosen.results, plan.name):
        print(path.name)
    for failure in results.failures:
        print(f"failed: {failure}", flush=True)
    return 1 if results.failures else 0


def _available(wanted: list[str] | None) -> tuple[list[type[Contender]], dict[str, str]]:
    kinds: list[type[Contender]] = []
    versions: dict[str, str] = {}
    every: tuple[type[Contender], ...] = (*CONTENDERS, Floor, Direct)
    for kind in every:
        if wanted and kind.name not in wanted:
            continue
        version = kind.version()
        if version is None:
            print(f"left out: {kind.name} is not available here", flush=True)
            continue
        kinds.append(kind)
        versions[kind.name] = version
    return kinds, versions
