"""What a committed dashboard asks of Prometheus, read as Grafana would read it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from cloned_proxy.share import share_path

DASHBOARDS = ("egress-overview", "blocked-calls", "sandbox-and-isolation", "fleet")
_FILLED_IN = {"$tool": ".*", "$instance": ".*", "$reason": ".*", "$__rate_interval": "1m", "$__range": "15m"}


@dataclass(frozen=True)
class Target:
    dashboard: str
    panel: str
    ref: str
    expr: str
    """With every variable filled in."""

    @property
    def name(self) -> tuple[str, str, str]:
        return self.dashboard, self.panel, self.ref


def document(dashboard: str) -> Any:
    return json.loads(share_path("dashboards", f"{dashboard}.json").read_text())


def api_targets() -> Iterator[dict[str, Any]]:
    """What the panels ask of the control API, as the data source keeps it."""
    for dashboard in DASHBOARDS:
        for panel in document(dashboard)["panels"]:
            yield from (target for target in panel["targets"] if "url" in target)


def targets(dashboards: Iterable[str] = DASHBOARDS) -> Iterator[Target]:
    for dashboard in dashboards:
        for panel in document(dashboard)["panels"]:
            for target in panel["targets"]:
                if "url" in target:
                    continue
                expr = target["expr"]
                for variable, value in _FILLED_IN.items():
                    expr = expr.replace(variable, value)
                yield Target(dashboard, panel["title"], target["refId"], expr)
