"""Panels as Grafana's own schema has them, with the choices that all dashboards share made once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders import heatmap, prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.builders.common import ReduceDataOptions, StackingConfig, VizLegendOptions
from grafana_foundation_sdk.models.common import DataSourceRef, GraphDrawStyle, LegendDisplayMode, StackingMode
from grafana_foundation_sdk.models.dashboard import (
    DashboardLinkType,
    DataTransformerConfig,
    DynamicConfigValue,
    MappingType,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE: Final = DataSourceRef(type_val="prometheus", uid="${datasource}")
GREEN, ORANGE, RED = "green", "orange", "red"
_HEIGHT: Final = 8
_STAT_HEIGHT: Final = 4
COLUMNS: Final = 24
"""Grafana's grid; at 1280 px a column is about 50 px, so nothing here is narrower than 4."""

CONTROL: Final = "http://127.0.0.1:8082"
"""The control UI and its API: the only name to which they answer."""

type Query = tuple[str, str]
"""(PromQL, legend)"""


def grown(series: str, span: str) -> str:
    """How much a counter grew over `span`, from its very first step on.

    `increase` alone sees nothing of a series that is born with the value 1, as the first denial of a host is.
    """
    return f"((({series}) unless ({series} offset {span})) or increase({series}[{span}]))"


def _query(expr: str, legend: str = "", ref: str = "A") -> prometheus.Dataquery:
    return prometheus.Dataquery().datasource(SOURCE).expr(expr).legend_format(legend).ref_id(ref)


def _refs(queries: Sequence[Query]) -> list[prometheus.Dataquery]:
    return [_query(expr, legend, chr(ord("A") + place)).range() for place, (expr, legend) in enumerate(queries)]


def steps(*levels: tuple[float | None, str]) -> build.ThresholdsConfig:
    """Colours from a value upwards; the first has no value."""
    return build.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps([Threshold(v, color) for v, color in levels])


def words(**results: tuple[str, str]) -> ValueMap:
    """`_1=("fine", GREEN)`: a number as a word in a colour."""
    found = {
        value.removeprefix("_"): ValueMappingResult(text=text, color=color, index=index)
        for index, (value, (text, color)) in enumerate(results.items())
    }
    mapping = ValueMap(found)
    mapping.type_val = MappingType.VALUE_TO_TEXT
    return mapping


def number(
    title: str,
    expr: str,
    told: str,
    *,
    unit: str = "short",
    levels: build.ThresholdsConfig | None = None,
    mapping: ValueMap | None = None,
    width: int = 4,
) -> stat.Panel:
    """One value as it is now."""
    panel = (
        stat.Panel()
        .title(title)
        .description(told)
        .datasource(SOURCE)
        .unit(unit)
        .span(width)
        .height(_STAT_HEIGHT)
        .reduce_options(ReduceDataOptions().calcs(["lastNotNull"]))
        .thresholds(levels or steps((None, GREEN)))
        .with_target(_query(expr).instant())
    )
    if unit == "short":
        panel.decimals(0)  # counts: `increase` extrapolates, and nobody was refused 256.8 times
    return panel.mappings([mapping]) if mapping is not None else panel


def graph(
    title: str,
    queries: Sequence[Query],
    told: str,
    *,
    unit: str,
    stacked: bool = False,
    exemplars: bool = False,
    width: int = 12,
    highest: float | None = None,
) -> timeseries.Panel:
    """Values over time. `exemplars` shows the last decision's id as a diamond at its point."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(told)
        .datasource(SOURCE)
        .unit(unit)
        .min(0)
        .span(width)
        .height(_HEIGHT)
        .draw_style(GraphDrawStyle.LINE)
        .fill_opacity(30 if stacked else 8)
        .stacking(StackingConfig().mode(StackingMode.NORMAL if stacked else StackingMode.NONE))
        .legend(VizLegendOptions().display_mode(LegendDisplayMode.LIST).show_legend(True))
    )
    for query in _refs(queries):
        panel.with_target(query.exemplar(True) if exemplars else query)
    return panel if highest is None else panel.max(highest)


def heat(title: str, buckets: str, told: str, *, width: int = 12) -> heatmap.Panel:
    """A histogram's buckets over time."""
    expr = f"sum by (le) (rate({buckets}[$__rate_interval]))"
    target = _query(expr, "{{le}}").range().format(PromQueryFormat.HEATMAP)
    return (
        heatmap.Panel()
        .title(title)
        .description(told)
        .datasource(SOURCE)
        .span(width)
        .height(_HEIGHT)
        .calculate(False)
        .y_axis(heatmap.YAxisConfig().unit("s"))
        .color(heatmap.HeatmapColorOptions().scheme("Oranges").steps(32).exponent(0.5))
        .with_target(target)
    )


def states(
    title: str, queries: Sequence[Query], told: str, mapping: ValueMap, *, width: int = 12
) -> statetimeline.Panel:
    """Since when something stands or fails."""
    panel = statetimeline.Panel().title(title).description(told).datasource(SOURCE).span(width).height(_HEIGHT)
    for query in _refs(queries):
        panel.with_target(query)
    return panel.mappings([mapping])


def control_link(title: str, view: str) -> dict[str, str | bool]:
    """A link of a table's cell into the control UI; `view` is what follows `#/`."""
    return {"title": title, "url": f"{CONTROL}/#/{view}", "targetBlank": True}


def rows(
    title: str,
    queries: Sequence[Query],
    told: str,
    *,
    units: Mapping[str, str] = MappingProxyType({}),
    links: Mapping[str, tuple[str, str]] = MappingProxyType({}),
    width: int = COLUMNS,
    beside_graph: bool = False,
) -> table.Panel:
    """A table with a column for each label and one for each query, named by its legend; sorted by the first.

    `units` is by column; `links` too: a title and the view of the control UI to which a cell leads.
    """
    panel = table.Panel().title(title).description(told).datasource(SOURCE).span(width)
    panel.height(_HEIGHT if beside_graph else _HEIGHT + 2)
    names: dict[str, str] = {}
    for place, (expr, name) in enumerate(queries):
        ref = chr(ord("A") + place)
        panel.with_target(_query(expr, ref=ref).instant().format(PromQueryFormat.TABLE))
        names[f"Value #{ref}" if len(queries) > 1 else "Value"] = name
    panel.with_transformation(DataTransformerConfig(id_val="merge", options={}))
    panel.with_transformation(
        DataTransformerConfig(id_val="organize", options={"excludeByName": {"Time": True}, "renameByName": names})
    )
    panel.with_transformation(
        DataTransformerConfig(id_val="sortBy", options={"sort": [{"field": queries[0][1], "desc": True}]})
    )
    for _, name in queries:
        shown = [DynamicConfigValue(id_val="unit", value=units[name])] if name in units else []
        panel.override_by_name(name, shown or [DynamicConfigValue(id_val="decimals", value=0)])
    for name, (text, view) in links.items():
        panel.override_by_name(name, [DynamicConfigValue(id_val="links", value=[control_link(text, view)])])
    return panel


def board(uid: str, title: str, told: str, *, labels: Sequence[tuple[str, str]]) -> build.Dashboard:
    """A dashboard with a choice of data source and, for each (label, metric), of the label's values."""
    made = (
        build.Dashboard(title)
        .uid(uid)
        .description(told)
        .tags(["cloned-proxy"])
        .refresh("10s")
        .time("now-1h", "now")
        .timezone("browser")
        .link(build.DashboardLink("cloned-proxy").tags(["cloned-proxy"]).as_dropdown(True).keep_time(True))
        .link(build.DashboardLink("Control UI").type(DashboardLinkType.LINK).url(f"{CONTROL}/").target_blank(True))
        .with_variable(build.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    )
    for label, metric in labels:
        made.with_variable(
            build.QueryVariable(label)
            .label(label.capitalize())
            .datasource(SOURCE)
            .query(f"label_values({metric}, {label})")
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(VariableSort.ALPHABETICAL_ASC)
            .multi(True)
            .include_all(True)
            .all_value(".*")
        )
    return made
