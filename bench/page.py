"""The results in docs/performance.md: one marked block, written by `python -m bench --page`, compared by a test."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

from bench.report import Figure, Results, Table
from bench.targets import rows, targets_of

_BEGIN: Final = "<!-- bench: written by `python -m bench --page` -->\n"
_END: Final = "<!-- bench: end -->\n"
_RUN: Final = "full"
_SHOWN: Final = ("cloned-proxy", "Squid", "tinyproxy", "mitmdump")


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
        return "No run is on record yet: `make bench` makes one in ten minutes.\n"
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
        "Ours ran with policy, audit log and metrics on, the others with an allowlist and an access log.",
        "",
        f"| | {' | '.join(_SHOWN)} |",
        f"|---|{'---:|' * len(_SHOWN)}",
    ]
    for table in results.tables:
        if not table.key.startswith("rules"):
            unit = table.unit if table.lower_is_better else table.unit.removesuffix("/s")
            lines.append(f"| {table.title} ({unit}) | {' | '.join(_cell(table, name) for name in _SHOWN)} |")
    lines += ["", *rows(targets_of(results)), "", f"![The same figures as bars](../bench/results/{_RUN}.svg)", ""]
    lines.append(f"Everything that was measured is in [bench/results/{_RUN}.md](../bench/results/{_RUN}.md).")
    return "\n".join(lines) + "\n"


def _cell(table: Table, name: str) -> str:
    figure = table.of(name)
    value = 0.0 if figure is None else figure.rate if table.lower_is_better else figure.per_cpu
    if not value:
        return "n/a"
    return f"{value:.1f}" if table.lower_is_better else f"{value:,.0f}"
