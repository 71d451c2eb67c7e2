"""A dashboard as matplotlib draws it: panels, queries, units, mappings and places are those of the committed JSON.

Grafana cannot be installed where this is built. The look is not its look; the values are those that it would show.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import httpx
import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from tests.dashboards.panels import document
from tests.dashboards.server import Prometheus

WIDTH: Final = 1280
_DPI: Final = 100
_UNIT: Final = 30
"""Pixels of one row of Grafana's grid."""
SECONDS: Final = 90
_FILLED_IN: Final = dict.fromkeys(("$tool", "$instance", "$reason"), ".*") | {
    "$__rate_interval": "15s",
    "$__range": f"{SECONDS}s",
}
_INK, PAPER, _PANEL, _QUIET = "#d8d9da", "#111217", "#181b1f", "#8e8e8e"
_COLORS: Final = {"green": "#73bf69", "orange": "#ff9830", "red": "#f2495c"}
_ROWS: Final = 9
_MINUTES: Final = 120
"""Seconds; from there on minutes are easier to read."""


@dataclass
class Source:
    """Where the values come from."""

    prometheus: Prometheus
    end: float
    control_port: int = 0
    token: str = ""
    """Of the control API; a dashboard without calls in it asks for none."""

    def instant(self, expr: str) -> list[tuple[dict[str, str], float]]:
        return self.prometheus.values(_filled(expr))

    def range(self, expr: str) -> list[tuple[dict[str, str], list[float], list[float]]]:
        data = self.prometheus.ask(
            "query_range", query=_filled(expr), start=str(self.end - SECONDS), end=str(self.end), step="1"
        )
        return [
            (series["metric"], [at - self.end for at, _ in series["values"]], [float(v) for _, v in series["values"]])
            for series in data["result"]
        ]

    def api(self, target: dict[str, Any]) -> list[dict[str, Any]]:
        path = target["url"].split("/api/v1", 1)[1].replace("${__from:date:seconds}", str(self.end - 3600))
        headers = {"Authorization": f"Bearer {self.token}"}
        url = f"http://127.0.0.1:{self.control_port}/api/v1{path}"
        answer = httpx.get(url, headers=headers, trust_env=False, timeout=10)
        answer.raise_for_status()
        items: list[dict[str, Any]] = answer.json()["items"]
        return items


def _filled(expr: str) -> str:
    for name, value in _FILLED_IN.items():
        expr = expr.replace(name, value)
    return expr


def _legend(template: str, labels: dict[str, str]) -> str:
    for name, value in labels.items():
        template = template.replace("{{" + name + "}}", value)
    return template


def _number(value: float, unit: str) -> str:
    match unit:
        case "s":
            return _duration(value)
        case "percentunit":
            return f"{value:.0%}"
        case "reqps" | "ops":
            return f"{value:.2g}/s"
        case "Bps":
            return f"{value:.3g} B/s"
        case "dateTimeFromNow":
            return f"{max(0, time.time() - value / 1000):.0f} s ago"
        case _:
            return f"{value:g}" if value == round(value, 2) else f"{value:.0f}"


def _duration(seconds: float) -> str:
    if seconds >= _MINUTES:
        return f"{seconds / 60:.0f} min"
    factor, unit = (1.0, "s") if seconds >= 1 else (1e3, "ms") if seconds >= 1e-3 else (1e6, "µs")
    return f"{seconds * factor:.3g} {unit}"


def _stat(ax: Axes, panel: dict[str, Any], source: Source) -> None:
    ((_, value),) = source.instant(panel["targets"][0]["expr"])[:1]
    defaults = panel["fieldConfig"]["defaults"]
    text, color = _number(value, defaults.get("unit", "")), "green"
    for step in defaults.get("thresholds", {}).get("steps", []):
        if step.get("value") is None or value >= step["value"]:
            color = step["color"]
    for mapping in defaults.get("mappings") or []:
        if found := mapping["options"].get(f"{value:g}"):
            text, color = found["text"], found["color"]
    ax.text(0.5, 0.42, text, ha="center", va="center", color=_COLORS[color], fontsize=19, weight="bold")
    ax.axis("off")


def _lines(ax: Axes, panel: dict[str, Any], source: Source) -> None:
    unit = panel["fieldConfig"]["defaults"].get("unit", "")
    for target in panel["targets"]:
        for labels, at, values in source.range(target["expr"]):
            ax.plot(at, values, linewidth=1.3, label=" " + _legend(target.get("legendFormat", ""), labels))
    ax.set_ylim(bottom=0, top=1.25 * ax.get_ylim()[1])
    ax.yaxis.set_major_formatter(lambda value, _: _number(value, unit))
    ax.legend(loc="upper left", fontsize=6.5, frameon=False, labelcolor=_INK, ncols=2)
    _time_axis(ax)


def _heat(ax: Axes, panel: dict[str, Any], source: Source) -> None:
    found = sorted(source.range(panel["targets"][0]["expr"]), key=lambda each: float(each[0]["le"]))
    bounds = [labels["le"] for labels, _, _ in found]
    size = max(len(values) for _, _, values in found)
    rows = [[0.0] * (size - len(values)) + values for _, _, values in found]  # cumulative, as Prometheus has them
    before = [[0.0] * size, *rows]
    counts = [
        [max(0.0, v - p) for v, p in zip(row, prev, strict=True)] for row, prev in zip(rows, before, strict=False)
    ]
    ax.imshow(
        [[value or float("nan") for value in row] for row in counts],
        aspect="auto",
        origin="lower",
        cmap="Oranges",
        extent=(-size, 0, 0, len(rows)),
    )
    ax.set_yticks([i + 0.5 for i in range(len(bounds))], [b if b == "+Inf" else _number(float(b), "s") for b in bounds])
    ax.tick_params(axis="y", labelsize=5.5)
    _time_axis(ax)


def _states(ax: Axes, panel: dict[str, Any], source: Source) -> None:
    options = panel["fieldConfig"]["defaults"]["mappings"][0]["options"]
    series = [found for target in panel["targets"] for found in source.range(target["expr"])]
    for row, (labels, at, values) in enumerate(series):
        for start, value in zip(at, values, strict=True):
            ax.broken_barh([(start, 1.05)], (row + 0.15, 0.7), color=_COLORS[options[f"{value:g}"]["color"]])
        ax.text(
            at[0], row + 0.5, f"  {labels['instance']}: {options[f'{values[-1]:g}']['text']}", va="center", fontsize=7
        )
    ax.set_yticks([])
    _time_axis(ax)


def _time_axis(ax: Axes) -> None:
    ax.set_xlim(-SECONDS, 0)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:.0f} s")
    ax.tick_params(colors=_QUIET, labelsize=7)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def _table(ax: Axes, panel: dict[str, Any], source: Source) -> None:
    target = panel["targets"][0]
    if "url" in target:
        names = [column["text"] for column in target["columns"]]
        rows = [[_cell(column, item) for column in target["columns"]] for item in source.api(target)]
    else:
        names, rows = _joined(panel, source)
    widths = [max(len(name), *(len(row[i]) for row in rows), 3) for i, name in enumerate(names)]
    left = 0.008
    height = 1 / (max(_ROWS, min(len(rows), 14)) + 1)
    for i, name in enumerate(names):
        ax.text(left, 1 - height / 2, name, color="#6e9fff", fontsize=7.5, va="center", weight="bold")
        for line, row in enumerate(rows[: int(1 / height) - 1]):
            ax.text(left, 1 - height * (line + 1.5), row[i], color=_INK, fontsize=7, va="center")
        left += 0.984 * widths[i] / sum(widths)
    ax.axis("off")


def _cell(column: dict[str, str], item: dict[str, Any]) -> str:
    value = item[column["selector"]]
    if column["type"] == "timestamp_epoch_s":
        return datetime.fromtimestamp(value, UTC).strftime("%H:%M:%S")
    return "_anonymous" if value is None else str(value)


def _joined(panel: dict[str, Any], source: Source) -> tuple[list[str], list[list[str]]]:
    renamed = panel["transformations"][1]["options"]["renameByName"]
    units = {
        override["matcher"]["options"]: each["value"]
        for override in panel["fieldConfig"].get("overrides", [])
        for each in override["properties"]
        if each["id"] == "unit"
    }
    found: dict[tuple[tuple[str, str], ...], dict[str, float]] = {}
    for target, name in zip(panel["targets"], renamed.values(), strict=True):
        for labels, value in source.instant(target["expr"]):
            found.setdefault(tuple(sorted(labels.items())), {})[name] = value
    first = next(iter(renamed.values()))
    names = [name for name, _ in next(iter(found))] if found else []
    ordered = sorted(found.items(), key=lambda each: -each[1].get(first, 0))
    rows = [
        [
            *(v for _, v in labels),
            *(_number(values[n], units.get(n, "")) if n in values else "" for n in renamed.values()),
        ]
        for labels, values in ordered
    ]
    return [*names, *renamed.values()], rows


_DRAW: Final[dict[str, Callable[[Axes, dict[str, Any], Source], None]]] = {
    "stat": _stat, "timeseries": _lines, "heatmap": _heat, "state-timeline": _states, "table": _table,
}  # fmt: skip


def draw(dashboard: str, source: Source) -> Figure:
    """The whole dashboard at 1280 px, panels where the JSON puts them."""
    board = document(dashboard)
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"])
    height = rows * _UNIT + 40
    figure = plt.figure(figsize=(WIDTH / _DPI, height / _DPI), dpi=_DPI, facecolor=PAPER)
    figure.text(0.008, 1 - 20 / height, board["title"], color=_INK, fontsize=12, va="center")
    note = "drawn by `make pictures` from a real Prometheus, not by Grafana"
    figure.text(0.992, 1 - 20 / height, note, color=_QUIET, fontsize=8, va="center", ha="right")
    for panel in board["panels"]:
        _place(figure, panel, source, height)
    return figure


def _place(figure: Figure, panel: dict[str, Any], source: Source, height: int) -> None:
    place, column = panel["gridPos"], WIDTH / 24
    left, top = place["x"] * column, 40 + place["y"] * _UNIT
    width, tall = place["w"] * column, place["h"] * _UNIT
    figure.add_artist(
        Rectangle(
            ((left + 3) / WIDTH, 1 - (top + tall - 3) / height),
            (width - 6) / WIDTH,
            (tall - 6) / height,
            color=_PANEL,
            zorder=-1,
        )
    )
    figure.text((left + 12) / WIDTH, 1 - (top + 16) / height, panel["title"], color=_INK, fontsize=9, va="center")
    kind = panel["type"]
    inner = (
        {"timeseries": 50, "heatmap": 50, "state-timeline": 24}.get(kind, 8),
        30,
        18,
        28 if kind not in {"stat", "table"} else 6,
    )
    box = (
        (left + inner[0]) / WIDTH,
        1 - (top + tall - inner[3]) / height,
        (width - inner[0] - inner[2]) / WIDTH,
        (tall - inner[1] - inner[3]) / height,
    )
    ax = figure.add_axes(box, facecolor=_PANEL)
    ax.tick_params(colors=_QUIET)
    _DRAW[kind](ax, panel, source)
