"""Single calls, which no metric can hold: read from the control API through Grafana's Infinity data source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from grafana_foundation_sdk.builders import table
from grafana_foundation_sdk.cog import variants
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.common import DataSourceRef
from grafana_foundation_sdk.models.dashboard import DynamicConfigValue

from dashboards.kit import COLUMNS, CONTROL, control_link

API: Final = DataSourceRef(type_val="yesoreyeram-infinity-datasource", uid="cloned-proxy-api")
"""As compose/grafana/datasources.yaml provisions it, with a token that may only read."""
_SHOWN: Final = 500
_HEIGHT: Final = 12

type Column = tuple[str, str, str]
"""(field of the answer, name in the table, type: `string`, `number` or `timestamp_epoch_s`)"""


@dataclass(frozen=True, slots=True)
class Query(variants.Dataquery, Builder[variants.Dataquery]):
    """One GET of the control API, as the data source keeps it."""

    path: str
    rows: str
    """JSONata: which part of the answer is the table."""
    columns: Sequence[Column]

    def build(self) -> variants.Dataquery:
        return self

    def to_json(self) -> dict[str, Any]:
        return {
            "datasource": API,
            "refId": "A",
            "type": "json",
            "source": "url",
            "format": "table",
            "parser": "backend",
            "url": f"{CONTROL}/api/v1{self.path}",
            "url_options": {"method": "GET"},
            "root_selector": self.rows,
            "columns": [{"selector": field, "text": text, "type": kind} for field, text, kind in self.columns],
            "filters": [],
        }


def denied_calls(title: str, told: str) -> table.Panel:
    """Each refused call as a row, the newest first."""
    # `deny` narrows what is read; tool and reason narrow what is shown, because they may be several.
    chosen = '$contains(tool ? tool : "_anonymous", /^(${tool:regex})$/) and $contains(reason, /^(${reason:regex})$/)'
    query = Query(
        path=f"/decisions?verdict=deny&since=${{__from:date:seconds}}&limit={_SHOWN}",
        rows=f"items[{chosen}]",
        columns=(
            ("at", "When", "timestamp_epoch_s"),
            ("tool", "Tool", "string"),
            ("method", "Method", "string"),
            ("host", "Host", "string"),
            ("port", "Port", "number"),
            ("path", "Path", "string"),
            ("reason", "Reason", "string"),
            ("hint", "Hint", "string"),
            ("id", "Decision", "string"),
        ),
    )
    panel = (
        table.Panel().title(title).description(told).datasource(API).span(COLUMNS).height(_HEIGHT).with_target(query)
    )
    for name, width in (("When", 160), ("Tool", 190), ("Method", 80), ("Port", 60), ("Reason", 150), ("Decision", 210)):
        panel.override_by_name(name, [DynamicConfigValue(id_val="custom.width", value=width)])
    link = control_link("This decision in the control UI", "live?decision=${__value.raw}")
    return panel.override_by_name("Decision", [DynamicConfigValue(id_val="links", value=[link])])
