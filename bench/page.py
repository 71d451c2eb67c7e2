"""The results in docs/performance.md: one marked block, written by `python -m bench --page`, compared by a test."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

from bench.report import Figure, Results, Table
from bench.targets import FLOOR, OURS, rows, targets_of, too_few_cores

_BEGIN: Final = "<!-- bench: written by `python -m bench --page` -->\n"
_END: Final = "<!-- bench: end -->\n"
_RUN: Final = "full"
_NATIVE: Final = "plane: native"
"""In the version of ours (`contenders.Ours.version`) where it serves."""
_SHOWN: Final = (OURS, "Squid", "tinyproxy", "mitmdump", FLOOR)
_WAITS: Final = (OURS, "Squid", "tinyproxy", "mitmdump", FLOOR, "direct")


def write_page(page: Path, results: Path) -> int:
    """Rewrites the block; 1, with a word why, when there is nothing to write or no place for it."""
    try:
        text = with_block(page.read_text(), block_of(results))
    except (OSError, ValueError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    page.write_text(text)
    return 0


def with_block(text: str, block: str) -> str:
    """The page's text with the block in its place. Raises ValueError."""
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"the page has no place for the figures: {_BEGIN.strip()} … {_END.strip()}")
    return before + begin + block + end + after


def block_of(directory: Path) -> str:
    """What stands between the marks: the figures of the full run, or that there was none."""
    try:
        content = json.loads((directory / f"{_RUN}.json").read_text())
    except FileNotFoundError:
        return "No run is on record yet: `make bench` makes one in at most 25 minutes.\n"
    return _block(_read(content))


def _read(content: dict[str, Any]) -> Results:
    tables = [
        Table(**{**table, "figures": tuple(Figure(**figure) for figure in table["figures"])})
        for table in content["tables"]
    ]
    return Results(**{**content, "tables": tables})


def _block(results: Results) -> str:
    machine = results.machine
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items() if name in _SHOWN)
    lines = [
        f"Made by `{results.command}` in one run, everything on loopback: {versions}.",
        f"The machine: {machine['cores']} cores of {machine['cpu']}, Python {machine['python']}.",
        "Each figure is per CPU-second of the proxy, the median of interleaved rounds.",
        "Ours ran with policy, audit log and metrics on, the others with an allowlist and an access log. The floor is",
        "a relay in C that checks and records nothing (`bench/floor.c`): what this kernel gives to whoever relays.",
        "",
        f"| | {' | '.join(_SHOWN)} | of the floor |",
        f"|---|{'---:|' * len(_SHOWN)}---:|",
    ]
    for table in results.tables:
        if not table.key.startswith(("rules", "cold")):
            unit = table.unit if table.lower_is_better else table.unit.removesuffix("/s")
            cells = " | ".join(_cell(table, name) for name in _SHOWN)
            lines.append(f"| {table.title} ({unit}) | {cells} | {_of_floor(table)} |")
    lines += ["", *_waits(results), "", *rows(targets_of(results)), ""]
    if too_few_cores(results):
        lines += [
            "Whether two threads are 1.8 times one this machine cannot show: clients and upstream take its cores.",
            "",
        ]
    lines += [f"![The same figures as bars](../bench/results/{_RUN}.svg)", ""]
    if _NATIVE not in results.versions.get(OURS, ""):
        lines += ["This run was without the [native plane](plane.md): `make bench` where cargo is replaces it.", ""]
    lines.append(f"Everything that was measured is in [bench/results/{_RUN}.md](../bench/results/{_RUN}.md).")
    return "\n".join(lines) + "\n"


def _of_floor(table: Table) -> str:
    ours, floor = table.of(OURS), table.of(FLOOR)
    if table.lower_is_better or ours is None or floor is None or not floor.per_cpu:
        return "n/a"
    return f"{100 * ours.per_cpu / floor.per_cpu:.0f} %"


def _waits(results: Results) -> list[str]:
    """How long one request takes by the clock, with 32 clients at once."""
    tables = [table for table in results.tables if table.key in {"http", "setup"}]
    lines = [f"| p50 / p99, ms | {' | '.join(_WAITS)} |", f"|---|{'---:|' * len(_WAITS)}"]
    for table in tables:
        found = [table.of(name) for name in _WAITS]
        cells = [f"{each.p50:.1f} / {each.p99:.1f}" if each is not None and each.p50 else "n/a" for each in found]
        lines.append(f"| {table.title} | {' | '.join(cells)} |")
    return lines if tables else []


def _cell(table: Table, name: str) -> str:
    figure = table.of(name)
    value = 0.0 if figure is None else figure.rate if table.lower_is_better else figure.per_cpu
    if not value:
        return "n/a"
    return f"{value:.1f}" if table.lower_is_better else f"{value:,.0f}"
