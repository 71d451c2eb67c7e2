"""The results: one JSON file with every sample's figures, one Markdown table, one picture."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from bench.chart import Bars, draw
from bench.measure import Sample, median, percentile
from bench.targets import rows, targets_of

REFERENCE: Final = "mitmdump"
_OURS: Final = "cloned-proxy"


@dataclass(frozen=True, slots=True)
class Figure:
    """One contender in one workload: medians over the rounds."""

    contender: str
    rate: float
    per_cpu: float
    """Per CPU-second of the contender's processes; 0 when it was too little to measure."""
    p50: float = 0.0
    """Milliseconds; 0 where latencies were not kept."""
    p99: float = 0.0
    errors: int = 0


@dataclass(frozen=True, slots=True)
class Table:
    key: str
    title: str
    unit: str
    figures: tuple[Figure, ...]
    lower_is_better: bool = False

    def of(self, contender: str) -> Figure | None:
        return next((figure for figure in self.figures if figure.contender == contender), None)


@dataclass(slots=True)
class Results:
    command: str
    machine: dict[str, str]
    versions: dict[str, str]
    tables: list[Table] = field(default_factory=list)
    micro: dict[str, float] = field(default_factory=dict)
    """Microseconds."""
    reload: dict[str, float] = field(default_factory=dict)
    """Milliseconds."""
    memory: list[float] = field(default_factory=list)
    """Resident MB along the long run."""
    many_tunnels: dict[str, float] = field(default_factory=dict)
    """How many were open, and the resident MB of the whole proxy."""
    neighbour: dict[str, float] = field(default_factory=dict)
    """As `bench.neighbour` and `bench.crowded` print them."""
    chained: dict[str, float] = field(default_factory=dict)
    """As `bench.chained` prints them."""
    fleet: dict[str, Any] = field(default_factory=dict)
    """As `bench.fleet_cost` prints them: a median and its quartiles each."""
    opened: dict[str, float] = field(default_factory=dict)
    """As `bench.opened` prints them."""
    registry: dict[str, float] = field(default_factory=dict)
    """As `bench.registry` prints them."""
    sandbox: dict[str, float] = field(default_factory=dict)
    """As `bench.sandbox` prints them."""
    model: dict[str, float] = field(default_factory=dict)
    """As `bench.model` prints them."""
    start: dict[str, float] = field(default_factory=dict)
    """Commands by name: the time until they have answered, as a multiple of a bare interpreter's start."""
    failures: list[str] = field(default_factory=list)


def summarise(contender: str, samples: Sequence[Sample]) -> Figure:
    def latency(share: float) -> float:
        return median([percentile(sample.latencies, share) for sample in samples if sample.latencies]) * 1e3

    return Figure(
        contender=contender,
        rate=median([sample.rate for sample in samples]),
        per_cpu=median([sample.per_cpu for sample in samples]),
        p50=latency(0.5),
        p99=latency(0.99),
        errors=sum(sample.errors for sample in samples),
    )


def write(results: Results, directory: Path, name: str) -> list[Path]:
    """Writes `name`.json, .md and .svg; returns their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    # One after the other, the figures first: whatever is wrong with a page about them, they took twenty minutes.
    writers: dict[str, Callable[[], str]] = {
        ".json": lambda: json.dumps(asdict(results), indent=1) + "\n",
        ".md": lambda: markdown(results),
        ".svg": lambda: draw("The same work, per CPU-second of each proxy", _bars(results)),
    }
    paths = [directory / (name + suffix) for suffix in writers]
    for path, text in zip(paths, writers.values(), strict=True):
        path.write_text(text())
    return paths


def markdown(results: Results) -> str:
    lines = [f"Made by `{results.command}`.", ""]
    lines += [f"- {key}: {value}" for key, value in results.machine.items()]
    lines += [f"- {name} {version}" for name, version in results.versions.items()]
    if results.failures:
        lines += ["", "### What failed", "", *(f"- {failure}" for failure in results.failures)]
    lines += ["", "### Targets", "", *rows(targets_of(results))]
    for table in results.tables:
        lines += ["", f"### {table.title}", "", *_rows(table)]
    if results.many_tunnels:
        many = results.many_tunnels
        lines += ["", "### Many tunnels", "", f"{many['open']:.0f} open at once: {many['MB']:.0f} MB RSS in all."]
    if results.micro:
        lines += ["", "### One call", "", "| | µs, median |", "|---|---:|"]
        lines += [f"| {name} | {value:.2f} |" for name, value in results.micro.items()]
    if results.reload:
        lines += ["", "### A new policy file under load", "", "| | ms |", "|---|---:|"]
        lines += [f"| {name} | {value:.0f} |" for name, value in results.reload.items()]
    if results.memory:
        steps = " → ".join(f"{size:.0f}" for size in results.memory)
        lines += ["", "### Resident memory over the long run", "", f"{steps} MB"]
    for title, found in (
        ("Allowed calls beside a loop of denied ones, and beside half heads", results.neighbour),
        ("Through a Squid in front", results.chained),
        ("What a fleet costs: more CPU than alone", results.fleet),
        ("Requests in opened TLS", results.opened),
        ("A packument of 10 MB under `min_age`", results.registry),
        ("A sandboxed call", results.sandbox),
        ("A local model", results.model),
    ):
        if found:
            lines += ["", f"### {title}", "", "| | |", "|---|---:|"]
            lines += [f"| {name.replace('_', ' ')} | {_value(value)} |" for name, value in found.items()]
    return "\n".join(lines) + "\n"


def _value(value: float | dict[str, float]) -> str:
    return ", ".join(f"{name} {each}" for name, each in value.items()) if isinstance(value, dict) else str(value)


def _rows(table: Table) -> list[str]:
    ours = table.of(_OURS)
    if table.lower_is_better:
        rows = [f"| | {table.unit} | errors |", "|---|---:|---:|"]
        return rows + [f"| {f.contender} | {f.rate:.1f} | {f.errors} |" for f in table.figures]
    rows = [
        f"| | {table.unit} | per CPU-second | cloned-proxy is (wall) | (per CPU-second) | p50 ms | p99 ms | errors |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for figure in table.figures:
        wall = _ratio(ours.rate, figure.rate) if ours is not None else ""
        cpu = _ratio(ours.per_cpu, figure.per_cpu) if ours is not None else ""
        waits = f"{figure.p50:.1f} | {figure.p99:.1f}" if figure.p50 else " | "
        rate, per_cpu = f"{figure.rate:.0f}", f"{figure.per_cpu:.0f}"
        rows.append(f"| {figure.contender} | {rate} | {per_cpu} | {wall} | {cpu} | {waits} | {figure.errors} |")
    return rows


def _ratio(ours: float, other: float) -> str:
    return f"{ours / other:.2f}x" if other else "n/a"


def _bars(results: Results) -> list[Bars]:
    groups: list[Bars] = []
    for table in results.tables:
        if "rules" in table.key:
            continue
        values = [(f.contender, f.rate if table.lower_is_better else f.per_cpu) for f in table.figures]
        note = ", less is better" if table.lower_is_better else " per CPU-second"
        groups.append(Bars(table.title, table.unit + note, values))
    return groups
